"""What an adapter of impressions returns: rows with a label, block by block, so that logs of any size can be read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa


@dataclass(frozen=True)
class ImpressionColumns:
    """Names of the columns of an impression log."""

    label: str
    """Column of type int8: 1 if the impression was clicked, else 0; never null."""
    continuous: tuple[str, ...]
    """Columns of type int64; null where unknown."""
    categorical: tuple[str, ...]
    """Columns of type dictionary<int32, string>; null where unknown. Each block has its own dictionaries."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order in which they stand in a block."""
        return (self.label, *self.continuous, *self.categorical)


@dataclass(frozen=True)
class ImpressionBlock:
    """Some rows of one file, in its order: N rows that can be used, and the count of those that were read for them."""

    part: np.ndarray
    """[N] int8: TRAIN, VALID or TEST of features.split."""
    columns: pa.Table
    """N rows with the columns that the adapter's `ImpressionColumns` names."""
    file: str
    """Path of the file."""
    lines: np.ndarray
    """[N] int64: line number of each row from 1; in a Parquet file the row number."""
    rows_read: int
    """Rows of the file that were read for this block: N, and those put in quarantine. Blank lines are no rows."""
