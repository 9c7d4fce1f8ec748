"""Matrices as Arrow columns and back: a row of the matrix is a list of fixed length."""

from __future__ import annotations

import numpy as np
import pyarrow as pa


def list_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """A matrix [rows, length] as one column."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])


def matrix_of(column: pa.ChunkedArray) -> np.ndarray:
    """A column of lists of fixed length as [rows, length], in memory of its own."""
    length = column.type.list_size
    chunks = [chunk.flatten().to_numpy(zero_copy_only=False).reshape(-1, length) for chunk in column.chunks]
    return np.concatenate(chunks) if chunks else np.empty((0, length), column.type.value_type.to_pandas_dtype())
