"""Batches for training: Merlin's dataloader over the examples, joined with the users' and items' features.

The dataloader carries the plain columns; list columns are looked up by row. Through the dataloader, an epoch over
80,000 examples with one list of 50 took 5 s on a CPU (pandas holds each list as an object), by look-up 0.1 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from merlin.dataloader.torch import Loader
from merlin.io import Dataset
from merlin.schema import Schema, Tags

from features.artifact import Artifact
from features.as_of import LAST, USER_NUMBERS
from features.list_column import matrix_of
from features.schema import load_schema, select

Batch = dict[str, torch.Tensor]


class FeatureTables:
    """Encoded features of all users and items, by row of their table."""

    def __init__(self, etl: Artifact) -> None:
        self.schema: Schema = load_schema(etl.file("schema.json"))
        self.users = tensors(pq.read_table(etl.file("users.parquet")), select(self.schema, Tags.USER))
        self.items = tensors(pq.read_table(etl.file("items.parquet")), select(self.schema, Tags.ITEM))

    def user_features(self, user_row: torch.Tensor) -> Batch:
        """Attributes of users (no state: history and activity belong to a moment)."""
        return {
            name: self.users[name][user_row]
            for name in self.users
            if name.startswith("user_") and name not in USER_NUMBERS and not name.startswith(LAST)
        }

    def item_features(self, item_row: torch.Tensor) -> Batch:
        return {name: column[item_row] for name, column in self.items.items()}


class Batches:
    """Shuffled batches of examples; epoch e of seed s is the same on every run.

    Args:
        examples: parquet files of the etl or ranking stage, with user_row and item_row.
        tables: features to join.
        batch_size: rows per batch; the last one of an epoch may be smaller.
        replaced: columns [num_rows, ...] to use instead of the files' own, or beside them.
    """

    def __init__(
        self, examples: list[Path], tables: FeatureTables, batch_size: int, seed: int, replaced: Batch | None = None
    ) -> None:
        table = pa.concat_tables([pq.read_table(path) for path in examples])
        self._looked_up = {
            name: torch.from_numpy(matrix_of(table[name]))
            for name in table.column_names
            if pa.types.is_fixed_size_list(table.schema.field(name).type)
        }
        self._looked_up |= replaced or {}
        self._table = table.drop_columns([name for name in self._looked_up if name in table.column_names])
        plain = self._table.append_column("example", pa.array(np.arange(len(table))))
        self._dataset = Dataset(plain.to_pandas(), cpu=True)
        self._tables = tables
        self._batch_size = batch_size
        self._seed = seed
        self.num_rows = len(table)

    def epoch(self, number: int) -> Iterator[Batch]:
        """All examples once, in an order that depends on the seed and the epoch's number only."""
        np.random.seed((self._seed + number) % 2**32)  # Merlin's loader shuffles with this state
        for columns, _ in Loader(self._dataset, batch_size=self._batch_size, shuffle=True, device="cpu"):
            yield self._joined(columns)

    def in_order(self) -> Iterator[Batch]:
        """All examples once, in file order."""
        for columns, _ in Loader(self._dataset, batch_size=self._batch_size, shuffle=False, device="cpu"):
            yield self._joined(columns)

    def column(self, name: str) -> torch.Tensor:
        """A column of the examples, in file order: [num_rows], or [num_rows, length] of a list."""
        return (
            self._looked_up[name] if name in self._looked_up else torch.from_numpy(self._table[name].to_numpy().copy())
        )

    def _joined(self, columns: Mapping[str, torch.Tensor]) -> Batch:
        batch = dict(columns)
        example = batch.pop("example")
        batch |= {name: values[example] for name, values in self._looked_up.items()}
        batch |= self._tables.user_features(batch["user_row"])
        batch |= self._tables.item_features(batch["item_row"])  # [B], or [B, K] where an example is a list
        return batch


def tensors(table: pa.Table, schema: Schema) -> Batch:
    """The columns of a table that the schema has."""
    return {
        column.name: torch.from_numpy(
            matrix_of(table[column.name]) if column.is_list else table[column.name].to_numpy().copy()
        )
        for column in schema
        if column.name in table.column_names
    }
