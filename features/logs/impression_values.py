"""Turns raw columns of an impression log into labels, integers and categories; says which rows cannot be turned.

Each function takes one column of a block, and returns the converted column with `bad`, a boolean mask of the rows that
cannot be used; what stands in the converted column there has no meaning.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.logs import convert
from features.logs.contract import LogError

CATEGORY_TYPES = (
    *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_binary),
    *(pa.types.is_large_binary, pa.types.is_integer, pa.types.is_null),
)
MAX_INTEGER = 2**53
"""Largest integer, up to which all of them have a float64 of their own: files may hold them as floats."""


def to_label(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, np.ndarray]:
    """int8. Bad: anything but 0 and 1."""
    numbers, bad = to_integer(column, where)
    values = numbers.fill_null(-1).to_numpy(zero_copy_only=False)
    bad = bad | ((values != 0) & (values != 1))
    return pa.array(np.where(bad, 0, values).astype(np.int8)), bad


def to_integer(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, np.ndarray]:
    """int64; null for empty text, null and NaN. Bad: text that is no number, fractions, and more than `MAX_INTEGER`.

    Args:
        column: binary, text, integer or floating values; "5.0" and 5.0 are the integer 5.
        where: file, column and config key, for the message.
    Raises: LogError if the column's type holds no numbers.
    """
    integers = _plain_integers(column)
    if integers is not None:
        return integers, np.zeros(len(integers), bool)
    numbers, bad = convert.to_number(column, where)
    known = numbers.is_valid().to_numpy(zero_copy_only=False)
    values = np.nan_to_num(numbers.to_numpy(zero_copy_only=False))
    bad = bad | (known & ((np.abs(values) > MAX_INTEGER) | (values != np.floor(values))))
    return pa.array(np.where(bad, 0, values).astype(np.int64), mask=~known), bad


def to_category(column: pa.ChunkedArray, where: str) -> tuple[pa.DictionaryArray, np.ndarray]:
    """dictionary<int32, string>; null for empty text and null. Integers become decimal digits. Bad: not UTF-8.

    Args:
        column: binary, text or integer values, plain or dictionary encoded.
        where: file, column and config key, for the message.
    Raises: LogError if the column holds neither text nor integers.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not any(fits(kind) for fits in CATEGORY_TYPES):
        raise LogError(
            f"{where} has type {kind}; categories must be text or integers. Write the column as text or as int64 (a "
            "column of integers with missing values becomes floating when pandas writes it: use its type Int64)"
        )
    codes = column.combine_chunks()
    codes = codes.unify_dictionaries().combine_chunks() if isinstance(codes, pa.ChunkedArray) else codes
    codes = codes if pa.types.is_dictionary(codes.type) else codes.dictionary_encode()
    words, bad_W = convert.to_text(pa.chunked_array([codes.dictionary]), where)
    used_W = ~bad_W & pc.not_equal(words, "").fill_null(False).to_numpy(zero_copy_only=False)
    code_N = codes.indices.fill_null(-1).to_numpy(zero_copy_only=False).astype(np.int32)
    new_W = np.where(used_W, np.cumsum(used_W) - 1, -1).astype(np.int32)
    bad_N = np.append(bad_W, False)[code_N]  # -1, a missing value, takes the last place
    code_N = np.append(new_W, np.int32(-1))[code_N]
    indices = pa.array(code_N, pa.int32(), mask=code_N < 0)
    return pa.DictionaryArray.from_arrays(indices, words.filter(pa.array(used_W)).cast(pa.string())), bad_N


def _plain_integers(column: pa.ChunkedArray) -> pa.Array | None:
    """The fast way for what almost all files hold; None if the slow way must tell what is wrong."""
    array = column.combine_chunks()
    try:
        if not pa.types.is_integer(array.type):
            text = array.cast(pa.string())
            if pc.any(pc.match_substring(text, "x")).as_py() or pc.any(pc.match_substring(text, "X")).as_py():
                return None  # Arrow would read "0x10" as 16
            array = pc.if_else(pc.equal(text, ""), pa.scalar(None, pa.string()), text)
        integers = array.cast(pa.int64())
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None
    span = pc.min_max(integers).as_py()
    small = span["min"] is None or (span["min"] >= -MAX_INTEGER and span["max"] <= MAX_INTEGER)
    return integers if small else None
