"""Arrow arrays as NumPy views of their buffers, for compiled loops; nothing is copied."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa


def bits(values: pa.Array) -> tuple[np.ndarray, int]:
    """Validity bitmap uint8 [bytes] and the place of the first row's bit; an empty bitmap: no row is null."""
    validity = values.buffers()[0]
    if validity is None or not values.null_count:
        return _view(None, np.uint8, 0, 0), 0
    return _view(validity, np.uint8, 0, validity.size), values.offset


def string_parts(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes uint8 [all rows' bytes, or more] and offsets [N + 1] into them, of a (large) string array."""
    _, offsets, data = values.buffers()
    wide = pa.types.is_large_string(values.type)
    if offsets is None or not len(values):
        return _view(None, np.uint8, 0, 0), _view(None, np.int64 if wide else np.int32, 0, 1)
    begins = _view(offsets, np.int64 if wide else np.int32, values.offset, len(values) + 1)
    return _view(data, np.uint8, 0, data.size if data is not None else 0), begins


def numbers(values: pa.Array) -> np.ndarray:
    """The numbers [N] of an array of numbers; where it is null, anything."""
    dtype = values.type.to_pandas_dtype()
    data = values.buffers()[1]
    return _view(data, dtype, values.offset, len(values)) if len(values) else np.empty(0, dtype)


def _view(buffer: pa.Buffer | None, dtype: Any, begin: int, size: int) -> np.ndarray:
    """Always read-only, so that numba compiles one variant of each loop."""
    if buffer is None:
        view = np.zeros(size, dtype)
    else:
        view = np.frombuffer(buffer, dtype, size, begin * np.dtype(dtype).itemsize)
    view.flags.writeable = False
    return view
