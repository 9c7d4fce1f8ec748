"""Items like those the user had, by what the catalogue says of them."""

# B users  N items of the catalogue  D values and terms

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from features.item_content import content_vectors
from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import best_of, popularity_order, ranked_rows

MAX_HISTORY = 200
"""Items of a user that make the profile, the latest ones."""


@dataclass
class ContentKnn:
    """Cosine of an item's content and the mean content of the user's items.

    A vector is the item's attribute values (a rare one weighs more, by its inverse document frequency to a power) and
    its text's TF-IDF, each part of length 1 before they are weighted.
    Source: Pazzani & Billsus, "Content-based recommendation systems", The Adaptive Web, 2007.
    """

    fill_days: float
    """Window in days of the recent popularity that fills rows, and that stands in for a user without history."""
    text_weight: float = 0.5
    """Share of the text in the cosine, in [0, 1]; the rest is the attributes'."""
    last_n: int = MAX_HISTORY
    """Items of the user's history that count, the latest ones."""
    rarity: float = 1.0
    """Power of the inverse document frequency of a value."""
    decay: float = 1.0
    """Factor from one item of the history to the next older one."""
    name: ClassVar[str] = "content_knn"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return "" if events.content else "the items have neither attribute nor text"

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        content = events.content
        assert content is not None
        weights = (0.5, 0.0, 0.2, 1.0) if content.attributes else (1.0,)
        if content.text_NT is None:
            weights = (0.0,)
        return [cls(fill_days, weight, last_n) for weight, last_n in product(weights, (MAX_HISTORY, 20, 5))]

    def finer(self, round_number: int) -> Sequence[Self]:
        if round_number == 1:
            return [replace(self, rarity=rarity) for rarity in (0.0, 0.5, 2.0)]
        return [replace(self, decay=0.8)] if round_number == 2 else []

    def fit(self, events: Events) -> Self:
        assert events.content is not None
        self._item_ND = content_vectors(events.content, self.text_weight, self.rarity)
        self._cold_rows = events.cold_rows
        recent_N = events.window_counts(self.fill_days).astype(np.float32)
        self._usual_D = recent_N / max(recent_N.sum(), 1.0) @ self._item_ND
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        def score(rows: np.ndarray) -> np.ndarray:
            return _scored(self._item_ND, self._profiles(rows, seen))

        return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N, np.arange(seen.num_items))

    def recommend_cold(self, user_rows: np.ndarray, seen: Events, k: int) -> np.ndarray:
        item_CD = self._item_ND[self._cold_rows]

        def score(rows: np.ndarray) -> np.ndarray:
            profile_BD = self._profiles(rows, seen)
            profile_BD[seen.history.count[rows] == 0] = self._usual_D
            return _scored(item_CD, profile_BD)

        return best_of(score, user_rows, k, self._cold_rows)

    def _profiles(self, rows: np.ndarray, seen: Events) -> np.ndarray:
        """[B, D]; its length does not matter to the order of items."""
        return (seen.history.matrix(rows, self.last_n, self.decay) @ self._item_ND).toarray()


def _scored(item_ND: sparse.csr_matrix, profile_BD: np.ndarray) -> np.ndarray:
    """[B, N], -inf where nothing is shared."""
    score_NB = item_ND @ np.ascontiguousarray(profile_BD.T)
    return np.where(score_NB > 0, score_NB, -np.inf).T.copy()
