"""Popularity that spreads to all items of a category: what an item without interactions can be ranked by."""

# B users  N items of the catalogue  V values of the attribute

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import best_of, popularity_order, ranked_rows


@dataclass
class PopularityByCategory:
    """The user's share of each category times the item's share of the category.

    share(v | u) = (u's items in v + prior * share(v)) / (u's items + prior), share(v) by interactions in the window:
    a user without history gets the categories popular of late. share(i | v) = (1 - spread) * i's part of v's
    interactions in the window + spread / items in v ** size_power. An item with several values gets their mean.
    Items that nobody had rank by the second part alone.
    """

    window_days: float
    """Length in days of the window, which ends with the last event."""
    attribute: str
    """Attribute of the items whose values are the categories."""
    prior: float = 10.0
    """Items' worth of common taste that every user starts with."""
    spread: float = 0.1
    """Share of a category's popularity that all of its items have alike, in [0, 1]."""
    size_power: float = 1.0
    """1: a category's popularity is divided among its items; 0: each has all of it."""
    name: ClassVar[str] = "popularity_by_category"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return "" if events.content and events.content.attributes else "the items have no attribute"

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        assert events.content is not None
        return [cls(fill_days, attribute) for attribute in events.content.attributes]

    def finer(self, round_number: int) -> Sequence[Self]:
        if round_number == 1:
            return [replace(self, prior=prior) for prior in (1.0, 3.0, 30.0, 300.0)]
        if round_number == 2:
            return [replace(self, window_days=self.window_days * factor) for factor in (0.25, 0.5, 2, 4)]
        if round_number == 3:
            return [replace(self, spread=spread) for spread in (0.0, 0.01, 0.03, 0.3)]
        return [replace(self, size_power=power) for power in (0.0, 0.5)] if round_number == 4 else []

    def fit(self, events: Events) -> Self:
        assert events.content is not None
        has_NV = events.content.attributes[self.attribute]
        per_item = np.asarray(has_NV.sum(axis=1)).ravel()
        self._value_NV = sparse.csr_matrix(sparse.diags(_inverse_of(per_item)) @ has_NV)
        self._recent_N = events.window_counts(self.window_days).astype(np.float32)
        self._popularity_V = self._value_NV.T @ self._recent_N
        self._size_V = np.asarray(has_NV.sum(axis=0)).ravel()
        self._cold_rows = events.cold_rows
        self._fill_N = popularity_order(events, self.window_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        own_V = (1 - self.spread) * _inverse_of(self._popularity_V)

        def score(rows: np.ndarray) -> np.ndarray:
            share_VB = self._shares(rows, seen)
            own_NB = self._recent_N[:, None] * (self._value_NV @ (own_V[:, None] * share_VB))
            return _scored(own_NB + self.spread * (self._value_NV @ self._spread(share_VB)))

        items = np.arange(seen.num_items)
        return ranked_rows(score, user_rows, seen, k, drop_seen, self._fill_N, items)

    def recommend_cold(self, user_rows: np.ndarray, seen: Events, k: int) -> np.ndarray:
        value_CV = self._value_NV[self._cold_rows]

        def score(rows: np.ndarray) -> np.ndarray:
            return _scored(value_CV @ self._spread(self._shares(rows, seen)))

        return best_of(score, user_rows, k, self._cold_rows)

    def _shares(self, rows: np.ndarray, seen: Events) -> np.ndarray:
        """[V, B] of the users' taste in each category."""
        had_BV = (seen.history.matrix(rows) @ self._value_NV).toarray()
        common_V = self._popularity_V / max(self._popularity_V.sum(), 1.0)
        return ((had_BV + self.prior * common_V) / (had_BV.sum(axis=1, keepdims=True) + self.prior)).T

    def _spread(self, share_VB: np.ndarray) -> np.ndarray:
        return share_VB * (_inverse_of(self._size_V) ** self.size_power)[:, None]


def _inverse_of(values: np.ndarray) -> np.ndarray:
    """1 / value, 0 where it is 0."""
    return np.divide(1.0, values, out=np.zeros(len(values), np.float32), where=values > 0)


def _scored(score_NB: np.ndarray) -> np.ndarray:
    """[B, N], -inf where there is nothing to say."""
    return np.where(score_NB > 0, score_NB, -np.inf).T.copy()
