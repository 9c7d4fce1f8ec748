"""RecentUsers: what was known of the users who asked a short while ago."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Generic, TypeVar

T = TypeVar("T")


class RecentUsers(Generic[T]):
    """A value a user, of the last users that were remembered, until it is too old. One thread at a time.

    Args:
        capacity: most users; 0 for none.
        max_age_seconds: after which a value is as good as forgotten.
        clock: seconds that never go back.
    """

    def __init__(self, capacity: int, max_age_seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._capacity = capacity
        self._max_age_seconds = max_age_seconds
        self._clock = clock
        self._values: OrderedDict[str, tuple[float, T]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._values)

    def remember(self, user_ids: Sequence[str], values: Sequence[T]) -> None:
        """Keep each user's value in place of an older one."""
        now = self._clock()
        for user_id, value in zip(user_ids, values, strict=True):
            self._values.pop(user_id, None)
            self._values[user_id] = now, value
        while len(self._values) > self._capacity:
            self._values.popitem(last=False)

    def recall(self, user_id: str) -> T | None:
        """The user's value; None if there is none, or it is too old."""
        when, value = self._values.get(user_id, (0.0, None))
        return value if value is not None and self._clock() - when <= self._max_age_seconds else None
