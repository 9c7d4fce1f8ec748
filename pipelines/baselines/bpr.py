"""Matrix factorisation by Bayesian personalised ranking, of the `implicit` package."""

# B users  A items with interactions  F factors, the item's bias included

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from itertools import product
from typing import ClassVar, Self

import numpy as np

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import popularity_order, ranked_rows

_LENGTHS = 3
"""Rounds in which the passes are doubled or halved."""


@dataclass
class Bpr:
    """Users' and items' vectors such that an item the user had scores above one drawn from the other interactions.

    A user who is not among the training users has no vector and gets the filling. One thread, so that the same seed
    gives the same vectors: with more of them steps overwrite each other.
    Source: Rendle et al., "BPR: Bayesian personalized ranking from implicit feedback", UAI 2009.
    """

    fill_days: float
    """Window in days of the recent popularity that fills rows."""
    factors: int = 32
    """Length of a user's and an item's vector without the bias."""
    learning_rate: float = 0.03
    """Step of the gradient ascent."""
    regularization: float = 0.01
    """Weight of the squared length of the vectors that a step touches."""
    iterations: int = 50
    """Passes, each of as many steps as there are pairs of a user and an item."""
    seed: int = 0
    """Of the first vectors and of the pairs drawn."""
    name: ClassVar[str] = "bpr"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return "" if find_spec("implicit") else "the package `implicit` is not installed; install the extra `evaluate`"

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        options = product((0.03, 0.01, 0.1), (0.01, 0.001, 0.03, 0.1))
        return [cls(fill_days, learning_rate=rate, regularization=weight) for rate, weight in options]

    def finer(self, round_number: int) -> Sequence[Self]:
        if round_number <= _LENGTHS:
            return [replace(self, iterations=max(1, int(self.iterations * factor))) for factor in (2, 0.5)]
        if round_number == _LENGTHS + 1:
            return [replace(self, factors=factors) for factors in (8, 16, 64, 128)]
        if round_number == _LENGTHS + 2:
            return [replace(self, regularization=self.regularization * factor) for factor in (0.5, 2)]
        return []

    def fit(self, events: Events) -> Self:
        from implicit.cpu.bpr import BayesianPersonalizedRanking

        self._items_A = events.had_rows
        self._model = BayesianPersonalizedRanking(
            factors=self.factors,
            learning_rate=self.learning_rate,
            regularization=self.regularization,
            iterations=self.iterations,
            num_threads=1,
            random_state=self.seed,
        )
        had = events.history.matrix(np.arange(events.num_users))[:, self._items_A]
        self._model.fit(had, show_progress=False)
        self._unknown_users = events.history.count == 0
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        from threadpoolctl import threadpool_limits

        def score(rows: np.ndarray) -> np.ndarray:
            score_BA = self._model.user_factors[rows] @ self._model.item_factors.T
            score_BA[self._unknown_users[rows]] = -np.inf
            return score_BA

        with threadpool_limits(1, "blas"):
            return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N, self._items_A)
