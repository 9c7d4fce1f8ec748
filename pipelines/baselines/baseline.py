"""The contract of a baseline: settings are its fields, `fit` learns, `recommend` ranks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, Self, runtime_checkable

import numpy as np

from pipelines.baselines.events import Events


class Baseline(Protocol):
    """A dataclass whose fields are the settings that tuning chooses.

    Every tie breaks by item row; a user without history gets what was popular of late; every row is filled up to k
    while the catalogue has an allowed item; the same settings and events give the same answer.
    """

    __dataclass_fields__: ClassVar[dict[str, Any]]
    name: ClassVar[str]

    @classmethod
    def unavailable(cls, events: Events, drop_seen: bool) -> str:
        """Why it cannot or should not run here, in a sentence; empty if it can."""
        ...

    @classmethod
    def grid(cls, events: Events, fill_days: float) -> Sequence[Self]:
        """Settings to try, the one to use when validation cannot tell them apart first.

        Args:
            events: training events, for settings that are relative to the data; `events.content` says what the
                catalogue knows of its items.
            fill_days: window of the recent popularity that fills rows.
        """
        ...

    def finer(self, round_number: int) -> Sequence[Self]:
        """More settings to try around this one, the best so far, in round 1, 2, ...; an empty round is the last."""
        ...

    def fit(self, events: Events) -> Self:
        """Learn from events; returns itself."""
        ...

    def recommend(self, user_rows: np.ndarray, seen: Events, k: int, drop_seen: bool) -> np.ndarray:
        """Rank the catalogue for users.

        Args:
            user_rows: [B] user rows.
            seen: what is known of the users when they ask; usually the events it was fitted on.
            k: slots K.
            drop_seen: whether items of `seen` must not come back.
        Returns: [B, K] int64 item rows, best first, no repeats; -1 only where the catalogue ends.
        """
        ...


@runtime_checkable
class ColdBaseline(Protocol):
    """What a baseline adds that can tell items without any interaction apart."""

    def recommend_cold(self, user_rows: np.ndarray, seen: Events, k: int) -> np.ndarray:
        """Rank only the items that had no event when it was fitted.

        Args:
            user_rows, seen, k: as in `Baseline.recommend`.
        Returns: [B, K] int64 item rows, best first, no repeats; -1 behind the last one it has something to say of.
        """
        ...
