"""How much every item was in demand at a moment: coordinates that the index takes over as they are.

A model of tastes learns who likes what and averages over the years; what sells this month it cannot know. So each item
vector ends with the logs of its interactions in windows of several lengths, and whether it had none at all, and each
query vector with the weights that this user gives to them. The sum stays one inner product, and a new snapshot of the
popularity needs no training.
"""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact

# I items  M moments  B rows  C items asked for  P = NUM_COORDINATES
NUM_WINDOWS = 5
NUM_COORDINATES = NUM_WINDOWS + 1
NEW = NUM_WINDOWS
"""The coordinate that is 1 for an item without a past, 0 for any other."""
NUM_MOMENTS = 64
MAX_NUMBERS = 48_000_000
"""Of the timeline in memory, 4 bytes each; a larger catalogue has fewer moments."""


class PopularityTimeline:
    """Popularity of the whole catalogue, at any moment or at the last of M moments before each row's own.

    The windows are the span of the interactions before the test part, a quarter of it, a sixteenth, and so on: they fit
    a season as well as two decades of ratings, and they are the same up to whatever moment serving knows the users.
    Between two moments lie equally many of those interactions. A moment sees only what came strictly before it.
    """

    def __init__(self, etl: Artifact, num_moments: int = NUM_MOMENTS) -> None:
        events = pq.read_table(etl.file("events.parquet"), columns=["item_row", "timestamp"])
        item, timestamp = (events[name].to_numpy() for name in events.column_names)
        known = timestamp[timestamp < etl.metrics["test_from"]]
        self._origin, self._span = int(timestamp[0]), int(timestamp[-1] - timestamp[0]) + 2
        self._first_key_I = np.arange(etl.metrics["num_items"]) * self._span
        self._key = np.sort(item * self._span + (timestamp - self._origin))
        self._window_seconds = [int((known[-1] - known[0] + 1) / 4**halvings) for halvings in range(NUM_WINDOWS)]
        num_moments = max(2, min(num_moments, MAX_NUMBERS // (len(self._first_key_I) * NUM_COORDINATES)))
        self.moment_M = np.unique(np.quantile(known, np.linspace(0, 1, num_moments), method="lower"))
        self._popularity_MIP = torch.stack([self.at(moment) for moment in self.moment_M])

    def at(self, moment: int) -> torch.Tensor:
        """[I, P] log(1 + interactions) in each window before the moment, in Unix seconds; then 1 for a new item."""
        until = min(max(int(moment) - self._origin, 0), self._span - 1)
        end_I = np.searchsorted(self._key, self._first_key_I + until)
        starts = [np.searchsorted(self._key, self._first_key_I + max(until - one, 0)) for one in self._window_seconds]
        is_new_I = end_I == np.searchsorted(self._key, self._first_key_I)
        columns = [*(np.log1p(end_I - start_I) for start_I in starts), is_new_I]
        return torch.from_numpy(np.stack(columns, axis=1).astype(np.float32))

    def before(self, timestamp_B: torch.Tensor, item_row_C: torch.Tensor) -> torch.Tensor:
        """[B, C, P] popularity of some items for rows of different moments, Unix seconds."""
        place_B = np.searchsorted(self.moment_M, timestamp_B.numpy(), side="right") - 1
        return self._popularity_MIP[:, item_row_C][torch.from_numpy(np.maximum(place_B, 0))]
