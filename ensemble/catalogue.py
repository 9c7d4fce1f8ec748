"""The items as the request path needs them: raw ids, features and popularity, aligned with the index rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from merlin.schema import Schema

# I items  K candidates  N ids
NO_ITEM = -1


class Catalogue:
    """A columnar snapshot of the items; row i is item_row i.

    Args:
        path: the etl stage's `items.parquet`.
        feature_names: columns the ranker reads.
    """

    def __init__(self, path: Path, feature_names: list[str]) -> None:
        table = pq.read_table(path)
        self.raw_ids = np.append(table["raw_id"].to_numpy(), "")  # the last one stands for NO_ITEM
        self._sorted_ids = table["raw_id"].to_numpy().astype(str)  # the etl stage sorts by raw id
        self._features = {name: _array(table[name]) for name in feature_names if name in table.column_names}
        popularity = np.stack([table["num_recent_events"].to_numpy(), table["num_events"].to_numpy()], axis=1)
        self.popularity = np.log1p(popularity[:, 0]).astype(np.float32)
        self.by_popularity = np.lexsort((np.arange(len(table)), -popularity[:, 1], -popularity[:, 0]))

    def __len__(self) -> int:
        return len(self._sorted_ids)

    def rows_of(self, raw_ids: np.ndarray) -> np.ndarray:
        """Item rows of raw ids, of any shape; NO_ITEM for one that the catalogue does not have."""
        if not raw_ids.size or not len(self):
            return np.full(raw_ids.shape, NO_ITEM, dtype=np.int64)
        wanted = raw_ids.astype(str)
        row = np.minimum(np.searchsorted(self._sorted_ids, wanted), len(self) - 1)
        return np.where(self._sorted_ids[row] == wanted, row, NO_ITEM)

    def ids_of(self, row: np.ndarray) -> np.ndarray:
        """Raw ids of item rows, of any shape; "" for NO_ITEM."""
        return self.raw_ids[row]

    def features_of(self, row_BK: np.ndarray) -> dict[str, np.ndarray]:
        """Encoded features of candidates, [B, K] or [B, K, length]; an empty slot gets those of item 0."""
        row_BK = np.maximum(row_BK, 0)
        return {name: values[row_BK] for name, values in self._features.items()}


def load_item_vectors(path: Path) -> np.ndarray:
    """[I, D] float32, from the retrieval stage's `item_vectors.parquet`."""
    return _array(pq.read_table(path, columns=["vector"])["vector"])


def item_feature_names(schema: Schema) -> list[str]:
    return [column.name for column in schema if column.name.startswith("item_")]


def _array(column: pa.ChunkedArray) -> np.ndarray:
    column = column.combine_chunks()
    if pa.types.is_fixed_size_list(column.type):
        return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
    return column.to_numpy(zero_copy_only=False)
