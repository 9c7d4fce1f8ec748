"""The items with most interactions in the last days."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import filled, popularity_order


@dataclass
class RecentPopularity:
    """The same list for everybody, by interactions in a window that ends with the last event.

    Source: Ji et al., "A re-visit of the popularity baseline in recommender systems", SIGIR 2020.
    """

    window_days: float
    """Length of the window in days."""
    name: ClassVar[str] = "recent_popularity"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return ""

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        """Windows that halve from the whole span of the data down to a 1024th."""
        return [cls(events.span_days / 2**halvings) for halvings in range(11)]

    def finer(self, round_number: int) -> Sequence[Self]:
        return []

    def fit(self, events: Events) -> Self:
        self._order_N = popularity_order(events, self.window_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        empty_BK = np.full((len(user_rows), k), -1, np.int64)
        return filled(empty_BK, user_rows, seen.history, drop_seen, self._order_N)
