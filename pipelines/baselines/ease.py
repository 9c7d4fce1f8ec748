"""EASE: a linear item-to-item model in closed form."""

# B users  N items of the catalogue  A items with interactions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import popularity_order, ranked_rows

MAX_ITEMS = 20_000
"""Items with interactions: the dense inverse takes 8 A^2 bytes and A^3 operations (3.2 GB and minutes at 20,000)."""

_ITEMS_WORTH_ALL_THREADS = 5_000
"""Below it one thread takes seconds; several that wait for each other on busy cores have taken forty times as long."""


@dataclass
class Ease:
    """Weights B that reconstruct each user's items from the user's other items, with a zero diagonal.

    P = (X'X + l2 I)^-1, B_ij = -P_ij / P_jj off the diagonal.
    Source: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
    """

    fill_days: float
    """Window in days of the recent popularity that fills rows."""
    l2: float = 300.0
    """Ridge penalty, in units of users."""
    name: ClassVar[str] = "ease"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        num_items = np.count_nonzero(events.item_counts)
        if num_items <= MAX_ITEMS:
            return ""
        return f"{num_items} items have interactions; its dense inverse is limited to {MAX_ITEMS}"

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        return [cls(fill_days, l2) for l2 in (300.0, 10.0, 30.0, 100.0, 1000.0, 3000.0, 10000.0)]

    def finer(self, round_number: int) -> Sequence[Self]:
        return []

    def fit(self, events: Events) -> Self:
        self._items_A = np.flatnonzero(events.item_counts)
        user_item = events.history.matrix(np.arange(events.num_users))[:, self._items_A].astype(np.float64)
        gram_AA = (user_item.T @ user_item).toarray(order="F")
        gram_AA[np.diag_indices_from(gram_AA)] += self.l2
        weight_AA = _inverse(gram_AA)
        weight_AA /= -np.diag(weight_AA)
        np.fill_diagonal(weight_AA, 0.0)
        self._weight_AA = weight_AA.astype(np.float32)
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        def score(rows: np.ndarray) -> np.ndarray:
            score_BN = np.full((len(rows), seen.num_items), -np.inf, np.float32)
            known_BA = seen.history.matrix(rows)[:, self._items_A]
            score_BN[:, self._items_A] = known_BA @ self._weight_AA
            score_BN[np.diff(known_BA.indptr) == 0] = -np.inf
            return score_BN

        return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N)


def _inverse(positive_AA: np.ndarray) -> np.ndarray:
    """Inverse of a symmetric positive definite matrix by Cholesky; overwrites its argument."""
    with threadpool_limits(None if len(positive_AA) > _ITEMS_WORTH_ALL_THREADS else 1, "blas"):
        factor_AA, info = lapack.dpotrf(positive_AA, lower=0, overwrite_a=1)
        inverse_AA, info_inverse = lapack.dpotri(factor_AA, lower=0, overwrite_c=1)
    if info or info_inverse:
        raise ValueError(f"X'X + l2 I is not positive definite (LAPACK info {info}, {info_inverse}): raise l2")
    upper_AA = np.triu(inverse_AA)
    return upper_AA + np.triu(upper_AA, 1).T
