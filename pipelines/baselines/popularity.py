"""The items with most interactions ever."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Self

import numpy as np

from pipelines.baselines.events import Events
from pipelines.baselines.ranked_rows import filled, popularity_order


@dataclass
class Popularity:
    """The same list for everybody, by interactions ever."""

    name: ClassVar[str] = "popularity"

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        return ""

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        return [cls()]

    def finer(self, round_number: int) -> Sequence[Self]:
        return []

    def fit(self, events: Events) -> Self:
        self._order_N = popularity_order(events)
        return self

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        empty_BK = np.full((len(user_rows), k), -1, np.int64)
        return filled(empty_BK, user_rows, seen.history, drop_seen, self._order_N)
