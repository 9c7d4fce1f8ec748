"""Interactions as integer rows: what every baseline is fitted on and what it knows of a user."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy import sparse

from features.item_content import ItemContent

SECONDS_PER_DAY = 86_400.0


@dataclass(frozen=True, eq=False)
class Events:
    """Interactions sorted by time; users and items are rows of the catalogue's tables."""

    user_row: np.ndarray
    """[E] int64, 0..num_users - 1."""
    item_row: np.ndarray
    """[E] int64, 0..num_items - 1."""
    timestamp: np.ndarray
    """[E] int64 Unix seconds, ascending."""
    num_users: int
    num_items: int
    content: ItemContent | None = None
    """What the catalogue says of its items, for the baselines that read it; None if nothing is known."""

    def __post_init__(self) -> None:
        if not len(self.user_row) == len(self.item_row) == len(self.timestamp):
            raise ValueError(
                f"user_row, item_row and timestamp must have one length, got {len(self.user_row)}, "
                f"{len(self.item_row)}, {len(self.timestamp)}"
            )
        if (np.diff(self.timestamp) < 0).any():
            raise ValueError("timestamp must ascend: sort the events by time")

    def __len__(self) -> int:
        return len(self.user_row)

    def where(self, kept: np.ndarray) -> Events:
        """The same catalogue with only some events; kept: [E] bool."""
        return replace(self, user_row=self.user_row[kept], item_row=self.item_row[kept], timestamp=self.timestamp[kept])

    def followed_by(self, later: Events) -> Events:
        """These events and later ones of the same catalogue."""
        return replace(
            self,
            user_row=np.concatenate([self.user_row, later.user_row]),
            item_row=np.concatenate([self.item_row, later.item_row]),
            timestamp=np.concatenate([self.timestamp, later.timestamp]),
        )

    @property
    def span_days(self) -> float:
        """Days from the first to the last event; 0 without events."""
        return float(self.timestamp[-1] - self.timestamp[0]) / SECONDS_PER_DAY if len(self) else 0.0

    @cached_property
    def item_counts(self) -> np.ndarray:
        """[num_items] events of each item."""
        return np.bincount(self.item_row, minlength=self.num_items)

    @cached_property
    def had_rows(self) -> np.ndarray:
        """Item rows with an event, ascending."""
        return np.flatnonzero(self.item_counts)

    @cached_property
    def cold_rows(self) -> np.ndarray:
        """Item rows without an event, ascending."""
        return np.flatnonzero(self.item_counts == 0)

    def window_counts(self, window_days: float) -> np.ndarray:
        """[num_items] events of each item within the last `window_days`, the moment of the last event included."""
        if not len(self):
            return self.item_counts
        since = self.timestamp[-1] - window_days * SECONDS_PER_DAY
        return np.bincount(self.item_row[self.timestamp >= since], minlength=self.num_items)

    @cached_property
    def history(self) -> History:
        """Each user's distinct items, the most recent first; equal times by item row."""
        pair = self.user_row * self.num_items + self.item_row
        distinct, last_from_end = np.unique(pair[::-1], return_index=True)
        user, item = np.divmod(distinct, self.num_items)
        order = np.lexsort((item, -self.timestamp[::-1][last_from_end], user))
        indptr = np.concatenate([[0], np.bincount(user, minlength=self.num_users).cumsum()]).astype(np.int64)
        return History(indptr, item[order], self.num_items)


@dataclass(frozen=True, eq=False)
class History:
    """Distinct items of each user, most recent first, as compressed rows."""

    indptr: np.ndarray
    """[num_users + 1] where each user's items begin and end."""
    item_row: np.ndarray
    """[distinct pairs] item rows."""
    num_items: int

    @property
    def count(self) -> np.ndarray:
        """[num_users] distinct items of each user."""
        return np.diff(self.indptr)

    def slots(self, user_rows: np.ndarray, last_n: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The histories of some users, flattened.

        Args:
            user_rows: [B] user rows.
            last_n: only each user's most recent items; None for all.
        Returns: three aligned arrays: position of the user in `user_rows`, place of the item in the user's history
            (0 is the most recent), item row.
        """
        count = self.count[user_rows]
        if last_n is not None:
            count = np.minimum(count, last_n)
        user = np.repeat(np.arange(len(user_rows)), count)
        place = np.arange(len(user)) - np.repeat(count.cumsum() - count, count)
        return user, place, self.item_row[np.repeat(self.indptr[user_rows], count) + place]

    def matrix(self, user_rows: np.ndarray, last_n: int | None = None, decay: float = 1.0) -> sparse.csr_matrix:
        """[B, num_items] float32 with `decay ** place` at each item of the user's history."""
        user, place, item = self.slots(user_rows, last_n)
        weight = np.power(np.float32(decay), place.astype(np.float32))
        return sparse.csr_matrix((weight, (user, item)), shape=(len(user_rows), self.num_items))
