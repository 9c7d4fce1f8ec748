"""Columns as the bytes of Feast's `ValueProto`, a whole column at a time.

Feast builds a protobuf object for every value. The three kinds that the store holds have a short wire form, so NumPy
writes them directly; `tests/features/store/test_value_bytes.py` holds every byte against Feast's own class.
Source: protobuf.dev/programming-guides/encoding; feast/protos/feast/types/Value.proto.
"""

from __future__ import annotations

import functools

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast.protos.feast.types.Value_pb2 import Int64List, Value

from features.store.config import StoreError

# N values  W bytes of the longest varint
_VARINT, _DELIMITED, _FIXED32 = 0, 2, 5
"""Protobuf's wire types."""
INT64_TAG = Value.INT64_VAL_FIELD_NUMBER << 3 | _VARINT
FLOAT_TAG = Value.FLOAT_VAL_FIELD_NUMBER << 3 | _FIXED32
INT64_LIST_TAG = Value.INT64_LIST_VAL_FIELD_NUMBER << 3 | _DELIMITED
PACKED_TAG = Int64List.VAL_FIELD_NUMBER << 3 | _DELIMITED


def value_bytes(name: str, column: pa.Array) -> pa.LargeBinaryArray:
    """The serialized `ValueProto` of each row: int64_val, float_val or int64_list_val by the column's type.

    A null row, and NaN, is the empty message, which Feast reads as None.
    Raises: StoreError naming the column if its type or a value fits none of the three.
    """
    try:
        if is_list(column.type):
            return _lists(column)
        if pa.types.is_floating(column.type):
            return _floats(column)
        if pa.types.is_integer(column.type):
            return _ints(column)
    except pa.ArrowInvalid as error:
        raise StoreError(f"users.parquet, column {name!r}: a value is no 64-bit integer ({error})") from error
    raise StoreError(
        f"users.parquet, column {name!r}: the online store holds integers, floats and lists of integers, "
        f"got {column.type}; rerun `etl`"
    )


def steps(column: pa.Array) -> pa.Array:
    """Lists as their first number and the differences that follow: of ascending item rows these are small, and take a
    byte or two. No list, null, becomes an empty one."""
    offsets = _offsets(pc.list_value_length(column).fill_null(0).to_numpy())
    value_E = pc.list_flatten(column).cast(pa.int64()).to_numpy()
    step_E = np.diff(value_E, prepend=0)
    begin_B = offsets[:-1][np.diff(offsets) > 0]
    step_E[begin_B] = value_E[begin_B]
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(step_E)).cast(column.type)


def value_texts(column: pa.Array) -> pa.LargeStringArray | None:
    """What Feast's SQLite store keeps beside a value to filter by: Python's `str` of it; None for a list column."""
    if is_list(column.type):
        return None
    if pa.types.is_integer(column.type):
        return column.cast(pa.large_string())
    single = _as_float32(column).dictionary_encode()  # printing a float is slow: each distinct one once
    texts = pa.array([str(value) for value in single.dictionary.cast(pa.float64()).to_pylist()], pa.large_string())
    return texts.take(single.indices)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds a list in each row, of fixed length or not."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def varint(number: int) -> bytes:
    """A number >= 0 in base 128, the lowest seven bits first, the high bit set on all bytes but the last."""
    encoded = bytearray()
    while number > 0x7F:
        encoded.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def concatenated(*parts: pa.Array | bytes) -> pa.LargeBinaryArray:
    """The parts joined row by row; bytes stand in every row. At least one part is an array."""
    kind = pa.large_binary()
    joined = [pa.scalar(part, kind) if isinstance(part, bytes) else part for part in parts]
    return pc.binary_join_element_wise(*joined, pa.scalar(b"", kind))


def fixed_width(matrix: np.ndarray) -> pa.LargeBinaryArray:
    """The rows of a matrix [N, width] of uint8."""
    return ragged(matrix.reshape(-1), np.arange(len(matrix) + 1) * matrix.shape[1])


def ragged(data: np.ndarray, offsets: np.ndarray) -> pa.LargeBinaryArray:
    """Rows data[offsets[n]:offsets[n+1]] of contiguous uint8."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(offsets, dtype=np.int64)), pa.py_buffer(data)]
    return pa.LargeBinaryArray.from_buffers(pa.large_binary(), len(offsets) - 1, buffers)


def _ints(column: pa.Array) -> pa.LargeBinaryArray:
    byte_NW, used_NW = _varints(column.cast(pa.int64()).fill_null(0))
    byte_NW = np.insert(byte_NW, 0, INT64_TAG, axis=1)
    used_NW = np.insert(used_NW, 0, True, axis=1) & column.is_valid().to_numpy(zero_copy_only=False)[:, None]
    return ragged(byte_NW[used_NW], _offsets(_widths(used_NW)))


def _floats(column: pa.Array) -> pa.LargeBinaryArray:
    single = _as_float32(column)
    byte_N5 = np.empty((len(single), 5), dtype=np.uint8)
    byte_N5[:, 0] = FLOAT_TAG
    byte_N5[:, 1:] = single.fill_null(0).to_numpy().astype("<f4").view(np.uint8).reshape(-1, 4)
    if not single.null_count:
        return fixed_width(byte_N5)
    is_known = single.is_valid().to_numpy(zero_copy_only=False)
    return ragged(byte_N5[is_known].reshape(-1), _offsets(is_known * 5))


def _as_float32(column: pa.Array) -> pa.Array:
    """In single precision, too large ones infinite, with NaN as null: pandas, and so Feast, makes no difference."""
    single = column.cast(pa.float32(), safe=False)
    return pc.if_else(pc.is_nan(single), pa.scalar(None, pa.float32()), single)


def _lists(column: pa.Array) -> pa.LargeBinaryArray:
    flat = pc.list_flatten(column)
    if flat.null_count:
        raise pa.ArrowInvalid("a list holds a null")
    byte_NW, used_NW = _varints(flat.cast(pa.int64()))
    end_of_value = _offsets(_widths(used_NW))
    num_values = pc.list_value_length(column).fill_null(0).to_numpy()
    end_of_row = end_of_value[_offsets(num_values)]
    num_bytes = np.where(column.is_valid().to_numpy(zero_copy_only=False), np.diff(end_of_row), -1)
    distinct, which = np.unique(num_bytes, return_inverse=True)
    headers = pa.array([_list_header(int(length)) for length in distinct], pa.large_binary())
    return concatenated(headers.take(pa.array(which)), ragged(byte_NW[used_NW], end_of_row))


def _list_header(num_bytes: int) -> bytes:
    """What stands before `num_bytes` of packed values; -1 is a null row."""
    if num_bytes < 0:
        return b""
    inner = bytes([PACKED_TAG]) + varint(num_bytes) if num_bytes else b""
    return bytes([INT64_LIST_TAG]) + varint(len(inner) + num_bytes) + inner


def _varints(values: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Bytes [N, W] uint8 of each value's varint, and which of them are used; negative ones take all ten."""
    rest = values.to_numpy().view(np.uint64)
    width = max(1, -(-int(rest.max(initial=0)).bit_length() // 7))
    rest = rest.astype(np.uint32) if width <= 4 else rest
    byte_NW = np.empty((len(rest), width), dtype=np.uint8)
    used_NW = np.ones((len(rest), width), dtype=bool)
    for place in range(width - 1):
        byte_NW[:, place] = rest  # its lowest eight bits, of which the highest is set below or cleared
        rest = rest >> 7
        used_NW[:, place + 1] = goes_on = rest != 0
        byte_NW[:, place] &= 0x7F
        byte_NW[:, place] |= goes_on.view(np.uint8) << 7
    byte_NW[:, -1] = rest
    return byte_NW, used_NW


def _widths(used_NW: np.ndarray) -> np.ndarray:
    """Bytes used in each row: NumPy sums few short columns faster than many short rows."""
    return functools.reduce(np.add, used_NW.T.view(np.uint8))


def _offsets(sizes: np.ndarray) -> np.ndarray:
    offsets = np.zeros(len(sizes) + 1, dtype=np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets
