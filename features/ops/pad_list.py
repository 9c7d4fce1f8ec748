"""PadList: list columns of one fixed length.

NVTabular 23.8's `ListSlice(pad=True)` loses the padding on a CPU when rows are arrays (`numpy.append` does not work in
place), so rows keep different lengths. Same idea, and on rows that are lists the same result as the stock operator.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit
from nvtabular.ops import ListSlice, Operator

from features.ops.arrow_column import arrow_series, lengths, whole


class PadList(Operator):
    """Keeps the first `length` elements of each row and fills up with `pad_value`.

    A column of Arrow lists becomes one of fixed-size lists, a column of Python objects one of NumPy arrays. Null rows
    become padding, and so do null elements.

    Args:
        length: elements per row afterwards.
        pad_value: what fills short and null rows.
    """

    def __init__(self, length: int, pad_value: int = 0) -> None:
        super().__init__()
        self.length = length
        self.pad_value = pad_value

    def transform(self, col_selector, df):
        if not isinstance(df, pd.DataFrame):
            return ListSlice(self.length, pad=True, pad_value=self.pad_value).transform(col_selector, df)
        return pd.DataFrame({name: self._padded(df[name]) for name in col_selector.names}, index=df.index, copy=False)

    def _padded(self, column: pd.Series) -> pd.Series:
        if not isinstance(column.dtype, pd.ArrowDtype):
            return pd.Series(list(self._padded_rows(column)), index=column.index, dtype=object)
        lists = whole(column)
        elements = lists.flatten()
        if pa.types.is_null(elements.type):
            elements = elements.cast(pa.int64())
        elements = pc.fill_null(elements, self.pad_value).to_numpy(zero_copy_only=False)
        padded = np.full((len(lists), self.length), self.pad_value, elements.dtype)
        _fill(elements, lengths(lists), padded)
        return arrow_series(pa.FixedSizeListArray.from_arrays(pa.array(padded.reshape(-1)), self.length), column.index)

    def _padded_rows(self, column: pd.Series) -> np.ndarray:
        rows = [() if values is None else values[: self.length] for values in column]
        num_kept = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        kept = np.concatenate([row for row in rows if len(row)]) if num_kept.any() else np.empty(0, np.int64)
        padded = np.full((len(rows), self.length), self.pad_value, dtype=kept.dtype)
        padded[np.arange(self.length) < num_kept[:, None]] = kept
        return padded

    def _compute_shape(self, col_schema, input_schema):
        return col_schema.with_shape((None, self.length))


@njit(nogil=True, cache=True)
def _fill(elements, num_elements, padded):
    begin = 0
    for row in range(len(padded)):
        for place in range(min(num_elements[row], padded.shape[1])):
            padded[row, place] = elements[begin + place]
        begin += num_elements[row]
