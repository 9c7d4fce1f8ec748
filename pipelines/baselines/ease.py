"""EASE: a linear item-to-item model in closed form."""

# B users asked for  U users with interactions  A items with interactions

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from scipy import sparse
from scipy.linalg import lapack
from threadpoolctl import threadpool_limits

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import popularity_order, ranked_rows

MAX_SIDE = 20_000
"""Users or items with interactions, whichever are fewer: the dense inverse takes 8 S^2 bytes and S^3 operations
(3.2 GB and minutes at 20,000)."""

MAX_CELLS = 400_000_000
"""Of the dense matrix of users and items that stands in for the inverse over the items: 3.2 GB."""

_SIDE_WORTH_ALL_THREADS = 5_000
"""Below it one thread takes seconds; several that wait for each other on busy cores have taken forty times as long."""

_L2 = (300.0, 10.0, 30.0, 100.0, 1000.0, 3000.0, 10000.0)


@dataclass
class Ease:
    """Weights B that reconstruct each user's items from the user's other items, with a zero diagonal.

    P = (X'X + l2 I)^-1, B_ij = -P_ij / P_jj off the diagonal, so that a user's score is x B = x - x P / diag(P).
    Where users are fewer than items P is not formed: by the Woodbury identity l2 P = I - X' (X X' + l2 I)^-1 X.
    Source: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
    """

    fill_days: float
    """Window in days of the recent popularity that fills rows."""
    l2: float = 300.0
    """Ridge penalty, in units of users."""
    name: ClassVar[str] = "ease"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        num_users, num_items = np.count_nonzero(events.history.count), len(events.had_rows)
        if num_items <= MAX_SIDE or (num_users <= MAX_SIDE and num_users * num_items <= MAX_CELLS):
            return ""
        return (
            f"{num_users} users and {num_items} items have interactions; its dense inverse is limited to {MAX_SIDE} "
            f"items, or users if users times items are at most {MAX_CELLS}"
        )

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        return [cls(fill_days, l2) for l2 in _L2]

    def finer(self, round_number: int) -> Sequence[Self]:
        """Beyond the grid's end, where the best stands on it."""
        if round_number > 3 or min(_L2) < self.l2 < max(_L2):
            return []
        return [replace(self, l2=self.l2 * (1 / 3 if self.l2 <= min(_L2) else 3))]

    def fit(self, events: Events) -> Self:
        self._items_A = events.had_rows
        users = np.flatnonzero(events.history.count)
        user_item = events.history.matrix(users)[:, self._items_A].astype(np.float64)
        dual = len(users) < len(self._items_A) or len(self._items_A) > MAX_SIDE
        self._weights = _UserSide.of(user_item, self.l2) if dual else _ItemSide.of(user_item, self.l2)
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        def score(rows: np.ndarray) -> np.ndarray:
            known_BA = seen.history.matrix(rows)[:, self._items_A]
            score_BA = self._weights.score(known_BA)
            score_BA[np.diff(known_BA.indptr) == 0] = -np.inf
            return score_BA

        return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N, self._items_A)


@dataclass(frozen=True)
class _ItemSide:
    """The weights themselves."""

    weight_AA: np.ndarray

    @classmethod
    def of(cls, user_item: sparse.csr_matrix, l2: float) -> _ItemSide:
        inverse_AA = _inverse((user_item.T @ user_item).toarray(order="F"), l2)
        weight_AA = inverse_AA / -np.diag(inverse_AA)
        np.fill_diagonal(weight_AA, 0.0)
        return cls(weight_AA.astype(np.float32))

    def score(self, known_BA: sparse.csr_matrix) -> np.ndarray:
        return np.asarray(known_BA @ self.weight_AA)


@dataclass(frozen=True)
class _UserSide:
    """What gives the same scores without a matrix of items by items."""

    user_item: sparse.csr_matrix
    """X [U, A]."""
    solved_UA: np.ndarray
    """(X X' + l2 I)^-1 X."""
    diagonal_A: np.ndarray
    """l2 diag(P)."""

    @classmethod
    def of(cls, user_item: sparse.csr_matrix, l2: float) -> _UserSide:
        inverse_UU = _inverse((user_item @ user_item.T).toarray(order="F"), l2)
        solved_UA = np.ascontiguousarray((user_item.T @ inverse_UU).T)
        diagonal_A = 1.0 - np.asarray(user_item.multiply(solved_UA).sum(axis=0)).ravel()
        return cls(user_item, solved_UA, diagonal_A)

    def score(self, known_BA: sparse.csr_matrix) -> np.ndarray:
        shared_BU = (known_BA @ self.user_item.T).toarray()
        known = known_BA.toarray()
        with threadpool_limits(1, "blas"):
            return (known - (known - shared_BU @ self.solved_UA) / self.diagonal_A).astype(np.float32)


def _inverse(gram_SS: np.ndarray, l2: float) -> np.ndarray:
    """(gram + l2 I)^-1 of a symmetric matrix by Cholesky; overwrites its argument."""
    gram_SS[np.diag_indices_from(gram_SS)] += l2
    with threadpool_limits(None if len(gram_SS) > _SIDE_WORTH_ALL_THREADS else 1, "blas"):
        factor_SS, info = lapack.dpotrf(gram_SS, lower=0, overwrite_a=1)
        inverse_SS, info_inverse = lapack.dpotri(factor_SS, lower=0, overwrite_c=1)
    if info or info_inverse:
        raise ValueError(f"X'X + l2 I is not positive definite (LAPACK info {info}, {info_inverse}): raise l2")
    upper_SS = np.triu(inverse_SS)
    return upper_SS + np.triu(upper_SS, 1).T
