"""Items that the same users had: item-to-item co-visitation."""

# B users  A items with interactions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import popularity_order, ranked_rows

MAX_HISTORY = 200
"""Items of a user that are paired, the latest ones: pairs grow with the square of a history."""


@dataclass
class Covisitation:
    """Sum, over the user's last items, of how often other users had both, normalised by how common each is.

    similarity(i, j) = users with both / (users with i * users with j) ** power; power 0.5 is the cosine.
    Source: Sarwar et al., "Item-based collaborative filtering recommendation algorithms", WWW 2001; Linden et al.,
    "Amazon.com recommendations", IEEE Internet Computing 2003.
    """

    fill_days: float
    """Window in days of the recent popularity that fills rows."""
    last_n: int = MAX_HISTORY
    """Items of the user's history that vote, the latest ones."""
    decay: float = 1.0
    """Factor from one item of the history to the next older one."""
    power: float = 0.5
    """Exponent of the normalisation; less of it favours common items."""
    name: ClassVar[str] = "covisitation"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return ""

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        options = product((0.5, 0.3, 0.1), (MAX_HISTORY, 20, 5), (1.0, 0.8))
        return [cls(fill_days, last_n, decay, power) for power, last_n, decay in options]

    def finer(self, round_number: int) -> Sequence[Self]:
        return []

    def fit(self, events: Events) -> Self:
        self._items_A = events.had_rows
        user_item = events.history.matrix(np.arange(events.num_users), last_n=MAX_HISTORY)[:, self._items_A]
        together = (user_item.T @ user_item).tocoo()
        num_users_A = np.asarray(user_item.sum(axis=0)).ravel()
        different = together.row != together.col
        row, col = together.row[different], together.col[different]
        similarity = together.data[different] / (num_users_A[row] * num_users_A[col]) ** self.power
        self._similarity_AA = sparse.csr_matrix((similarity.astype(np.float32), (row, col)), shape=together.shape)
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        def score(rows: np.ndarray) -> np.ndarray:
            votes_BA = seen.history.matrix(rows, self.last_n, self.decay)[:, self._items_A]
            score_BA = (votes_BA @ self._similarity_AA).toarray()
            score_BA[score_BA == 0] = -np.inf
            return score_BA

        return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N, self._items_A)
