"""Batches of impressions, streamed from Parquet by Merlin's dataloader: memory does not grow with the rows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from merlin.dataloader.torch import Loader
from merlin.schema import Schema

from features.batches import Batch
from features.partitions import ParquetParts, dataset_of
from ranking.clicks.checks import checked_statistics, label_name


class ClickBatches:
    """The rows of one part in batches: columns [B] by name; epoch e of seed s is the same on every run.

    Rows are shuffled within parts of about 250,000, and the parts among each other.

    Args:
        paths: parquet files, in order.
        schema: the label and the features.
        batch_size: rows per batch; the last one of an epoch may be smaller.
    Raises: ClickDataError if a value cannot be used.
    """

    def __init__(self, paths: Sequence[Path], schema: Schema, batch_size: int, seed: int) -> None:
        self.statistics = checked_statistics(paths, schema)
        self.label = label_name(schema)
        self.num_rows = self.statistics.num_rows
        self._paths = paths
        self._batch_size = batch_size
        self._seed = seed

    def epoch(self, number: int) -> Iterator[Batch]:
        """All rows once, in an order that depends on the seed and the epoch's number only."""
        np.random.seed((self._seed + number) % 2**32)  # Merlin's loader shuffles with this state
        yield from self._batches(shuffle=True)

    def in_order(self) -> Iterator[Batch]:
        """All rows once, in file order."""
        yield from self._batches(shuffle=False)

    def _batches(self, shuffle: bool) -> Iterator[Batch]:
        dataset = dataset_of(ParquetParts.of(self._paths))
        num_left = self.num_rows
        # Asked for one batch more than there is, Merlin's loader can wait for ever: its thread may not have ended yet.
        with Loader(dataset, batch_size=self._batch_size, shuffle=shuffle, device="cpu") as loader:
            while num_left:
                batch, _ = next(loader)
                num_left -= len(batch[self.label])
                yield batch
