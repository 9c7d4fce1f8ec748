"""Implicit-feedback matrix factorisation by alternating least squares, of the `implicit` package."""

# U users  A items with interactions  F factors

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import popularity_order, ranked_rows

_EVENTS_WORTH_ALL_THREADS = 1_000_000
"""Below it one thread is as fast. The result is the same: each row is solved by itself."""

_CLIMBS = 3
"""Rounds of half steps; one that stands where it began costs nothing."""


@dataclass
class Ials:
    """iALS; every user's vector is solved from the history at the time of asking, so new users are folded in.

    Tuning goes over regularization and alpha with few factors first, since the best of the one grows with the other;
    then climbs in half steps from the best pair, beyond the grid too, then goes over factors and iterations.
    Source: Hu, Koren & Volinsky, "Collaborative filtering for implicit feedback datasets", ICDM 2008; Rendle et al.,
    "Revisiting the performance of iALS on item recommendation benchmarks", RecSys 2022: untuned it is no baseline.
    """

    fill_days: float
    """Window in days of the recent popularity that fills rows."""
    factors: int = 32
    """Length F of a user's and an item's vector."""
    regularization: float = 100.0
    """Weight of the factors' squared length."""
    alpha: float = 16.0
    """Confidence of one interaction, that of a missing one being 1."""
    iterations: int = 8
    """Passes over users and items."""
    seed: int = 0
    """Of the factors' first values."""
    name: ClassVar[str] = "ials"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return "" if find_spec("implicit") else "the package `implicit` is not installed; install the extra `evaluate`"

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        options = product((100.0, 3.0, 10.0, 30.0, 300.0, 1000.0, 3000.0), (16.0, 1.0, 4.0, 64.0, 256.0))
        return [cls(fill_days, regularization=regularization, alpha=alpha) for regularization, alpha in options]

    def finer(self, round_number: int) -> Sequence[Self]:
        if round_number <= _CLIMBS:
            steps = ((0.5, 1), (2, 1), (1, 0.5), (1, 2), (0.5, 0.5), (2, 2))
            return [replace(self, regularization=self.regularization * r, alpha=self.alpha * a) for r, a in steps]
        if round_number == _CLIMBS + 1:
            return [replace(self, factors=f, iterations=i) for f, i in product((32, 64, 128, 16), (8, 16))]
        return []

    def fit(self, events: Events) -> Self:
        from implicit.cpu.als import AlternatingLeastSquares
        from threadpoolctl import threadpool_limits

        self._items_A = events.had_rows
        with threadpool_limits(1, "blas"):
            self._model = AlternatingLeastSquares(
                factors=self.factors,
                regularization=self.regularization,
                alpha=self.alpha,
                iterations=self.iterations,
                num_threads=0 if len(events) >= _EVENTS_WORTH_ALL_THREADS else 1,
                random_state=self.seed,
            )
            self._model.fit(_weights(events, np.arange(events.num_users)), show_progress=False)
        self._item_AF = self._model.item_factors[self._items_A]
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        from threadpoolctl import threadpool_limits

        def score(rows: np.ndarray) -> np.ndarray:
            score_UA = self._model.recalculate_user(np.arange(len(rows)), _weights(seen, rows)) @ self._item_AF.T
            score_UA[seen.history.count[rows] == 0] = -np.inf
            return score_UA

        with threadpool_limits(1, "blas"):
            return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N, self._items_A)


def _weights(events: Events, user_rows: np.ndarray) -> sparse.csr_matrix:
    """[U, N] 1 + log(interactions) of each pair: Hu et al.'s logarithmic confidence, so that repeats saturate."""
    shape = (events.num_users, events.num_items)
    ones = np.ones(len(events), np.float32)
    weights_UN = sparse.csr_matrix((ones, (events.user_row, events.item_row)), shape=shape)[user_rows]
    weights_UN.data = 1 + np.log(weights_UN.data)
    return weights_UN
