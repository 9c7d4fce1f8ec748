"""What was known at a moment: every feature here looks strictly before the moment it is asked for."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa

# E events  Q questions (a user or an item, and a moment)  N history length
SECONDS_PER_DAY = 86_400
NO_ITEM = -1


@dataclass(frozen=True)
class UserState:
    """A user as of a moment."""

    history_QN: np.ndarray
    """Item rows of the last N interactions, newest first, NO_ITEM where there are fewer."""
    num_events: np.ndarray
    """[Q] interactions so far."""
    recency_days: np.ndarray
    """[Q] days since the last interaction; 0 if there is none (num_events tells)."""
    last_timestamp: np.ndarray
    """[Q] Unix seconds of the last interaction; -1 if there is none."""


@dataclass(frozen=True)
class ItemState:
    """An item as of a moment."""

    num_events: np.ndarray
    """[Q] interactions so far."""
    num_recent_events: np.ndarray
    """[Q] interactions within the window before the moment."""
    age_days: np.ndarray
    """[Q] days since the item's first interaction; 0 if there is none."""


class EventLog:
    """Interactions indexed by user and by item, to be asked about any moment.

    Args:
        user_row, item_row: [E] rows of the users and items tables.
        timestamp: [E] Unix seconds.
    """

    def __init__(self, user_row: np.ndarray, item_row: np.ndarray, timestamp: np.ndarray) -> None:
        self._origin = int(timestamp.min()) if len(timestamp) else 0
        self._span = (int(timestamp.max()) - self._origin if len(timestamp) else 0) + 2
        by_user = np.lexsort((item_row, timestamp, user_row))
        self._user_key = self._key(user_row[by_user], timestamp[by_user])
        self._item_of_user = item_row[by_user]
        self._timestamp_of_user = timestamp[by_user]
        by_item = np.lexsort((timestamp, item_row))
        self._item_key = self._key(item_row[by_item], timestamp[by_item])
        self._timestamp_of_item = timestamp[by_item]

    @classmethod
    def from_events(cls, events: pa.Table, before: int | None = None) -> EventLog:
        """Index the etl stage's `events.parquet`, or only what happened before a moment."""
        user_row, item_row, timestamp = (events[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
        kept = slice(None) if before is None else timestamp < before
        return cls(user_row[kept], item_row[kept], timestamp[kept])

    def user_state(self, user_row: np.ndarray, timestamp: np.ndarray, history_length: int) -> UserState:
        """State of each user strictly before each moment.

        Args:
            user_row: [Q] users.
            timestamp: [Q] Unix seconds; interactions at that very second do not count.
            history_length: N.
        """
        start, end = self._range(self._user_key, user_row, timestamp)
        position_QN = end[:, None] - 1 - np.arange(history_length)
        known_QN = position_QN >= start[:, None]
        history_QN = np.where(known_QN, self._take(self._item_of_user, position_QN), NO_ITEM)
        last = np.where(end > start, self._take(self._timestamp_of_user, end - 1), -1)
        recency = np.where(last >= 0, (timestamp - last) / SECONDS_PER_DAY, 0.0)
        return UserState(history_QN, end - start, recency, last)

    def item_state(self, item_row: np.ndarray, timestamp: np.ndarray, window_days: float) -> ItemState:
        """State of each item strictly before each moment; the window is [moment - window_days, moment)."""
        start, end = self._range(self._item_key, item_row, timestamp)
        _, before_window = self._range(self._item_key, item_row, timestamp - int(window_days * SECONDS_PER_DAY))
        age = (timestamp - self._take(self._timestamp_of_item, start)) / SECONDS_PER_DAY
        return ItemState(end - start, end - before_window, np.where(end > start, age, 0.0))

    def items_before(self, user_row: np.ndarray, timestamp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distinct item rows of each user strictly before each moment.

        Returns: question numbers and item rows, both [num_pairs], ordered by question, then item.
        """
        start, end = self._range(self._user_key, user_row, timestamp)
        num = end - start
        question = np.repeat(np.arange(len(num)), num)
        position = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num) + np.repeat(start, num)
        item = self._item_of_user[position]
        num_items = int(item.max(initial=0)) + 1
        return np.divmod(np.unique(question * num_items + item), num_items)

    def _key(self, row: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        moment = np.clip(timestamp - self._origin, 0, self._span - 1)
        return row.astype(np.int64) * self._span + moment

    def _range(self, key: np.ndarray, row: np.ndarray, timestamp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        start = np.searchsorted(key, row.astype(np.int64) * self._span)
        end = np.searchsorted(key, self._key(row, timestamp))
        return start, np.maximum(start, end)

    @staticmethod
    def _take(values: np.ndarray, position: np.ndarray) -> np.ndarray:
        if not len(values):
            return np.zeros(position.shape, dtype=values.dtype)
        return values[np.clip(position, 0, len(values) - 1)]
