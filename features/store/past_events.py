"""The last interactions of every user as the log has them: what live events are put in order with.

The history that the models read holds encoded ids of items, from which neither the rows nor the moments come back.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.artifact import Artifact

# E events  U users


class PastEvents:
    """Read from the etl stage's events before its `as_of`.

    Args:
        length: interactions kept of a user.
    """

    def __init__(self, etl: Artifact, length: int) -> None:
        events = pq.read_table(etl.file("events.parquet"), columns=["user_row", "item_row", "timestamp"])
        user_row, item_row, timestamp = (column.to_numpy() for column in events.columns)
        num_events = int(np.searchsorted(timestamp, etl.metrics["as_of"]))  # they stand in time order
        by_user = np.argsort(user_row[:num_events], kind="stable")  # and stay in it: time, then item
        self._item_row, self._timestamp = item_row[by_user], timestamp[by_user]
        num_of_user = np.bincount(user_row[:num_events], minlength=etl.metrics["num_users"])
        self._end_U = np.cumsum(num_of_user)
        self._kept_U = np.minimum(num_of_user, length)

    def column(self, begin: int, end: int) -> pa.Array:
        """Item row and Unix seconds, in turn and newest first, of the last interactions of users begin..end."""
        kept, last = self._kept_U[begin:end], self._end_U[begin:end] - 1
        offsets = np.concatenate([[0], np.cumsum(kept)])
        place = np.arange(offsets[-1]) - np.repeat(offsets[:-1], kept)  # 0 is a user's newest
        event = np.repeat(last, kept) - place
        pairs = np.stack([self._item_row[event], self._timestamp[event]], axis=1).astype(np.int64)
        return pa.LargeListArray.from_arrays(pa.array(2 * offsets), pa.array(pairs.reshape(-1)))
