"""PadList: list columns of one fixed length.

NVTabular 23.8's `ListSlice(pad=True)` loses the padding on a CPU when rows are arrays (`numpy.append` does not work in
place), so rows keep different lengths. Same idea, and on rows that are lists the same result as the stock operator.
"""

from __future__ import annotations

import numpy as np
from nvtabular.ops import Operator


class PadList(Operator):
    """Keeps the first `length` elements of each row and fills up with `pad_value`.

    Args:
        length: elements per row afterwards.
        pad_value: what fills short and null rows.
    """

    def __init__(self, length: int, pad_value: int = 0) -> None:
        super().__init__()
        self.length = length
        self.pad_value = pad_value

    def transform(self, col_selector, df):
        return type(df)({name: list(self._padded(df[name])) for name in col_selector.names}, index=df.index)

    def _padded(self, column) -> np.ndarray:
        rows = [() if values is None else values[: self.length] for values in column]
        num_kept = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
        kept = np.concatenate([row for row in rows if len(row)]) if num_kept.any() else np.empty(0, np.int64)
        padded = np.full((len(rows), self.length), self.pad_value, dtype=kept.dtype)
        padded[np.arange(self.length) < num_kept[:, None]] = kept
        return padded

    def _compute_shape(self, col_schema, input_schema):
        return col_schema.with_shape((None, self.length))
