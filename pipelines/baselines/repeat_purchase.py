"""What the user had before, the latest first."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import filled, popularity_order


@dataclass
class RepeatPurchase:
    """The user's own items by recency, then recently popular items."""

    fill_days: float
    """Window in days of the recent popularity that fills rows."""
    name: ClassVar[str] = "repeat_purchase"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return "seen items are dropped here, and it proposes nothing else" if drop_seen else ""

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        return [cls(fill_days)]

    def finer(self, round_number: int) -> Sequence[Self]:
        return []

    def fit(self, events: Events) -> Self:
        self._fill_N = popularity_order(events, self.fill_days)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        ranked_BK = np.full((len(user_rows), k), -1, np.int64)
        if not drop_seen:
            user, place, item = seen.history.slots(user_rows, last_n=k)
            ranked_BK[user, place] = item
        return filled(ranked_BK, user_rows, seen.history, drop_seen, self._fill_N)
