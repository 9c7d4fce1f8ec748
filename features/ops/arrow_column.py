"""Columns of data frames as Arrow arrays and back, without copies where pandas allows it."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from features.errors import CascadeError


class ColumnError(CascadeError, TypeError):
    """A column holds values that cannot be encoded."""


def chunks(column) -> list[pa.Array]:
    """The column's values, NaN as null: one array, or several where the Arrow data come in pieces.

    Args:
        column: of pandas, with Arrow or NumPy data or Python objects; or of cudf.
    Raises: ColumnError if a column of objects mixes types.
    """
    try:
        if not isinstance(column, pd.Series):
            values = column.to_arrow()
        elif isinstance(column.dtype, pd.ArrowDtype):
            values = column.array.__arrow_array__()
        else:
            values = pa.array(column, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
        raise ColumnError(
            f"column {column.name!r} must hold text, numbers, or lists of either, all of one type: {error}"
        ) from error
    return values.chunks if isinstance(values, pa.ChunkedArray) else [values]


def whole(column) -> pa.Array:
    """The column's values as one array; dictionary-encoded ones are joined."""
    parts = chunks(column)
    if len(parts) == 1:
        return parts[0]
    joined = pa.chunked_array(parts, None if parts else pa.null()).combine_chunks()
    return joined if isinstance(joined, pa.Array) else joined.combine_chunks()


def holds_lists(values: pa.Array) -> bool:
    kind = values.type
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def lengths(lists: pa.Array) -> np.ndarray:
    """Elements of each row, int64 [N]; 0 where the list is null."""
    return np.asarray(pc.fill_null(pc.list_value_length(lists), 0), dtype=np.int64)


def like_lists(lists: pa.Array, elements: np.ndarray) -> pa.Array:
    """Lists of the same lengths with other elements [all]; a null list becomes an empty one."""
    if pa.types.is_fixed_size_list(lists.type) and not lists.null_count:
        return pa.FixedSizeListArray.from_arrays(pa.array(elements), lists.type.list_size)
    ends = np.concatenate([[0], np.cumsum(lengths(lists))])
    if len(elements) > np.iinfo(np.int32).max:
        return pa.LargeListArray.from_arrays(pa.array(ends), pa.array(elements))
    return pa.ListArray.from_arrays(pa.array(ends.astype(np.int32)), pa.array(elements))


def arrow_series(values: pa.Array | pa.ChunkedArray, index: pd.Index) -> pd.Series:
    """A pandas column over Arrow data."""
    return pd.Series(pd.arrays.ArrowExtensionArray(values), index=index)


def object_series(lists: pa.Array, index: pd.Index) -> pd.Series:
    """A pandas column of NumPy arrays, one a row."""
    ends = np.cumsum(lengths(lists))
    elements = lists.flatten().to_numpy(zero_copy_only=False)
    rows = [elements[begin:end] for begin, end in zip([0, *ends[:-1]], ends, strict=True)] if len(ends) else []
    return pd.Series(rows, index=index, dtype=object)
