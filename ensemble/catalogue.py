"""The items as the request path needs them: raw ids, features and popularity, aligned with the index rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.list_column import matrix_of

# B users  K candidates  I items
NO_ITEM = -1
_STATE = ("raw_id", "num_recent_events", "num_events")


class ItemColumns:
    """Columns of all items. Those of one type lie side by side, so that an item's values are found together.

    Args:
        columns: by name, [I] or [I, length].
    """

    def __init__(self, columns: Mapping[str, np.ndarray]) -> None:
        self._lists = {name: values for name, values in columns.items() if values.ndim > 1}
        by_type: dict[np.dtype, list[str]] = {}
        for name, values in columns.items():
            if values.ndim == 1:
                by_type.setdefault(values.dtype, []).append(name)
        self._groups = [(names, np.stack([columns[name] for name in names], axis=1)) for names in by_type.values()]

    def at(self, row_BK: np.ndarray) -> dict[str, np.ndarray]:
        """[B, K] or [B, K, length] by name."""
        found = {name: values[row_BK] for name, values in self._lists.items()}
        for names, value_IC in self._groups:
            value_CBK = np.ascontiguousarray(np.moveaxis(value_IC[row_BK], -1, 0))
            found |= zip(names, value_CBK, strict=True)
        return found


class Catalogue:
    """A columnar snapshot of the items; row i is item_row i.

    Args:
        path: the etl stage's `items.parquet`.
        feature_names: columns the ranker reads.
    """

    def __init__(self, path: Path, feature_names: Sequence[str] = ()) -> None:
        there = pq.read_schema(path).names
        table = pq.read_table(path, columns=[*_STATE, *(name for name in feature_names if name in there)])
        self._raw_id = table["raw_id"]
        self._features = ItemColumns({name: array_of(table[name]) for name in table.column_names if name not in _STATE})
        num_recent_events, num_events = (table[name].to_numpy() for name in ("num_recent_events", "num_events"))
        self.by_popularity = np.lexsort((np.arange(len(table)), -num_events, -num_recent_events))
        """[I] item rows, most popular first: by recent events, then by all events, then by row."""

    def __len__(self) -> int:
        return len(self._raw_id)

    # Each operator that reads the items has its own Catalogue and holds only what it has used.
    @cached_property
    def popularity(self) -> np.ndarray:
        """[I] float32 in (0, 1]: 1 / place in `by_popularity`, so that it orders items as that does."""
        popularity_I = np.empty(len(self), dtype=np.float32)
        popularity_I[self.by_popularity] = 1 / np.arange(1, len(self) + 1)
        return popularity_I

    @cached_property
    def _row_of_id(self) -> dict[str, int]:
        return {raw_id: row for row, raw_id in enumerate(self._raw_id.to_pylist())}

    @cached_property
    def _id_of_row(self) -> np.ndarray:
        return np.array([*self._raw_id.to_pylist(), ""], dtype=object)  # the last one stands for NO_ITEM

    def rows_of(self, raw_ids: np.ndarray) -> np.ndarray:
        """Item rows of raw ids, of any shape; NO_ITEM for one that the catalogue does not have."""
        row_of_id = self._row_of_id
        rows = [row_of_id.get(raw_id, NO_ITEM) for raw_id in raw_ids.ravel().tolist()]
        return np.array(rows, dtype=np.int64).reshape(raw_ids.shape)

    def ids_of(self, row: np.ndarray) -> np.ndarray:
        """Raw ids of item rows, of any shape; "" for NO_ITEM."""
        return self._id_of_row[row]

    def features_of(self, row_BK: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded features of candidates, [B, K] or [B, K, length]; an empty slot gets those of item 0."""
        return self._features.at(np.maximum(row_BK, 0))


def load_item_vectors(path: Path) -> np.ndarray:
    """[I, D] float32, from the retrieval stage's `item_vectors.parquet`."""
    return array_of(pq.read_table(path, columns=["vector"])["vector"])


def array_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column as [rows], or as [rows, length] where it has lists of a fixed length."""
    return matrix_of(column) if pa.types.is_fixed_size_list(column.type) else column.to_numpy()
