"""Batches of impressions, streamed from Parquet: memory does not grow with the rows.

The rows go from Arrow to torch column by column, a part of the rows ahead in a thread. Merlin's dataloader, which does
the same with a data frame in between, takes three times the processor time, and lists one object a row.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import torch
from merlin.schema import Schema

from features.ahead import ahead
from features.batches import Batch
from features.list_column import matrix_of
from features.partitions import ParquetParts
from ranking.clicks.checks import checked_statistics, label_name

# B rows of a batch  L list length


class ClickBatches:
    """The rows of one part in batches: columns [B], lists [B, L] by name; epoch e of seed s is the same on every run.

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
        self._parts, self._names = ParquetParts.of(paths), schema.column_names
        self._batch_size = batch_size
        self._seed = seed

    def epoch(self, number: int) -> Iterator[Batch]:
        """All rows once, in an order that depends on the seed and the epoch's number only."""
        yield from self._batches(np.random.default_rng([self._seed, number]))

    def in_order(self) -> Iterator[Batch]:
        """All rows once, in file order."""
        yield from self._batches(None)

    def _batches(self, random: np.random.Generator | None) -> Iterator[Batch]:
        left: Batch = {}
        for part in ahead(lambda: self._parts_in_turn(random)):
            columns = {name: torch.cat([left[name], values]) for name, values in part.items()} if left else part
            num_rows = len(columns[self.label])
            num_whole = num_rows - num_rows % self._batch_size
            for begin in range(0, num_whole, self._batch_size):
                yield {name: values[begin : begin + self._batch_size] for name, values in columns.items()}
            left = {name: values[num_whole:] for name, values in columns.items()} if num_whole < num_rows else {}
        if left:
            yield left

    def _parts_in_turn(self, random: np.random.Generator | None) -> Iterator[Batch]:
        """Parts, and rows within each, in file order or drawn anew."""
        for part in np.arange(len(self._parts)) if random is None else random.permutation(len(self._parts)):
            table = self._parts.read(int(part), self._names)
            row = None if random is None else random.permutation(len(table))
            yield {name: _tensor(table[name], row) for name in self._names}


def _tensor(column: pa.ChunkedArray, row: np.ndarray | None) -> torch.Tensor:
    """A column of numbers [B] or of lists [B, L]; the rows given, in their order."""
    values = matrix_of(column) if pa.types.is_fixed_size_list(column.type) else column.to_numpy()
    return torch.from_numpy(values.copy() if row is None else values[row])
