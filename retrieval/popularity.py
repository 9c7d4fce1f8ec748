"""How much every item was in demand at a moment: one coordinate that the index takes over as it is.

A model of tastes learns who likes what and averages over the years; what sells this month it cannot know. So each item
vector ends with the log of its recent interactions, and each query vector with the weight this user gives to it. The
sum stays one inner product, and a new snapshot of the popularity needs no training.
"""

from __future__ import annotations

import numpy as np
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact
from features.history import EventLog

# I items  M moments  B rows  C items asked for
NUM_MOMENTS = 64


class PopularityTimeline:
    """Log popularity of the whole catalogue, at any moment or at the last of M moments before each row's own.

    The moments are spread evenly over the log; a moment sees only what came strictly before it.
    """

    def __init__(self, etl: Artifact, num_moments: int = NUM_MOMENTS) -> None:
        events = pq.read_table(etl.file("events.parquet"))
        timestamp = events["timestamp"].to_numpy()
        self._log = EventLog.from_events(events)
        self._num_items: int = etl.metrics["num_items"]
        self._window_days: float = etl.manifest["config"]["popularity_window_days"]
        self._moment_M = np.linspace(timestamp[0], timestamp[-1], num_moments).astype(np.int64)
        self._log_popularity_MI = torch.stack([self.at(moment) for moment in self._moment_M])

    def at(self, moment: int) -> torch.Tensor:
        """[I] log(1 + interactions in the etl stage's window before the moment), moment in Unix seconds."""
        every_item, moment_I = np.arange(self._num_items), np.full(self._num_items, moment)
        state = self._log.item_state(every_item, moment_I, self._window_days)
        return torch.from_numpy(np.log1p(state.num_recent_events).astype(np.float32))

    def before(self, timestamp_B: torch.Tensor, item_row_C: torch.Tensor) -> torch.Tensor:
        """[B, C] log popularity of some items for rows of different moments, Unix seconds."""
        place_B = np.searchsorted(self._moment_M, timestamp_B.numpy(), side="right") - 1
        return self._log_popularity_MI[:, item_row_C][torch.from_numpy(np.maximum(place_B, 0))]
