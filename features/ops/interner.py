"""Interner: an exact, append-only table from values to codes, without a Python object per value."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pyarrow as pa

from features.errors import CascadeError
from features.ops import hash_table
from features.ops.arrow_buffers import bits, numbers, string_parts
from features.ops.dictionary_codes import first_appearances, take

_ROWS_AT_ONCE = 65_536
_SMALLEST_TABLE = 16


class InternerError(CascadeError, TypeError):
    """The values are of another type than the table's."""


class Interner:
    """Codes 0, 1, ... for values, by first appearance; null has none (-1).

    Strings are compared byte by byte, numbers as 64-bit words; NaN counts as null, -0.0 as 0.0. A dictionary-encoded
    array costs one look-up per value of its dictionary. Any number of threads may call `find` at a time, and `add`
    waits for other `add`s; but no `find` while another thread adds.

    Args:
        value_type: pa.string(), pa.int64() or pa.float64(): what `values` returns. Narrower integers, large strings and
            dictionaries of either are understood.
        dtype: of the codes, np.int32 or np.int64.
    """

    def __init__(self, value_type: pa.DataType = pa.string(), dtype: Any = np.int32) -> None:  # noqa: B008
        if value_type not in (pa.string(), pa.int64(), pa.float64()):
            raise InternerError(f"an Interner holds pa.string(), pa.int64() or pa.float64(), got {value_type}")
        self.value_type = value_type
        self.dtype = np.dtype(dtype)
        self._count = 0
        self._slots = np.zeros(2 * _SMALLEST_TABLE, np.uint64)
        self._arena = np.empty(0, np.uint8)
        self._ends = np.zeros(1, np.int64)
        self._words = np.empty(0, np.uint64)
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._count

    def __reduce__(self) -> tuple:
        return _interner_of, (self.values(), self.dtype)

    def add(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Codes of values [N], inserting those that are missing, in row order.

        Raises: InternerError if the values are of another type than the table's.
        """
        if isinstance(values, pa.ChunkedArray):
            return _joined([self.add(chunk) for chunk in values.chunks], self.dtype)
        if isinstance(values, pa.DictionaryArray):
            order = first_appearances(values)
            code_of = np.full(len(values.dictionary), -1, self.dtype)
            everything = len(order) == len(code_of) and bool((order == np.arange(len(order))).all())
            code_of[order] = self.add(values.dictionary if everything else values.dictionary.take(pa.array(order)))
            return take(code_of, values, -1)
        values = self._checked(values)
        codes = np.empty(len(values), self.dtype)
        with self._lock:
            for begin in range(0, len(values), _ROWS_AT_ONCE):
                part = values.slice(begin, _ROWS_AT_ONCE)
                self._add(part, codes[begin : begin + len(part)])
        return codes

    def find(self, values: pa.Array | pa.ChunkedArray) -> np.ndarray:
        """Codes of values [N], -1 for those that are null or unknown.

        Raises: InternerError if the values are of another type than the table's.
        """
        if isinstance(values, pa.ChunkedArray):
            return _joined([self.find(chunk) for chunk in values.chunks], self.dtype)
        if isinstance(values, pa.DictionaryArray):
            return take(self.find(values.dictionary), values, -1)
        values = self._checked(values)
        codes = np.empty(len(values), self.dtype)
        validity, first_bit = bits(values)
        if self.value_type == pa.string():
            data, offsets = string_parts(values)
            hash_table.find_strings(self._slots, self._arena, self._ends, data, offsets, validity, first_bit, codes)
        else:
            hash_table.find_words(self._slots, self._as_words(values), validity, first_bit, codes)
        return codes

    def values(self) -> pa.Array:
        """The values, in the order of their codes."""
        if self.value_type != pa.string():
            words = self._words[: self._count].view(np.int64 if self.value_type == pa.int64() else np.float64)
            return pa.array(words, self.value_type)
        ends = self._ends[: self._count + 1]
        data = pa.py_buffer(self._arena[: ends[-1]])
        if ends[-1] > np.iinfo(np.int32).max:
            return pa.LargeStringArray.from_buffers(self._count, pa.py_buffer(ends), data)
        return pa.StringArray.from_buffers(self._count, pa.py_buffer(ends.astype(np.int32)), data)

    def reserve(self, num_values: int) -> None:
        """Make room for so many more values at once, which saves moving the table as it grows."""
        with self._lock:
            self._grow_slots(self._count + num_values)

    def _add(self, values: pa.Array, codes: np.ndarray) -> None:
        self._grow_slots(self._count + len(values))
        validity, first_bit = bits(values)
        if self.value_type == pa.string():
            data, offsets = string_parts(values)
            self._ends = _with_room(self._ends, self._count + 1, len(values))
            self._arena = _with_room(self._arena, int(self._ends[self._count]), int(offsets[-1]) - int(offsets[0]))
            self._count = hash_table.add_strings(
                self._slots, self._arena, self._ends, self._count, data, offsets, validity, first_bit, codes
            )
        else:
            self._words = _with_room(self._words, self._count, len(values))
            words = self._as_words(values)
            self._count = hash_table.add_words(self._slots, self._words, self._count, words, validity, first_bit, codes)

    def _grow_slots(self, num_values: int) -> None:
        size = len(self._slots)
        while size < 4 * num_values:  # two words a slot, half of the slots free
            size *= 2
        if size > len(self._slots):
            larger = np.zeros(size, np.uint64)
            hash_table.rehash(self._slots, larger)
            self._slots = larger

    def _as_words(self, values: pa.Array) -> np.ndarray:
        return numbers(values).view(np.uint64)

    def _checked(self, values: pa.Array) -> pa.Array:
        """The values as the table's type, whatever their width."""
        kind = values.type
        if kind == self.value_type != pa.float64():
            return values
        if self.value_type == pa.string() and (pa.types.is_string_view(kind) or pa.types.is_large_string(kind)):
            return values if pa.types.is_large_string(kind) else values.cast(pa.large_string())
        is_whole = pa.types.is_integer(kind) or pa.types.is_boolean(kind)
        if pa.types.is_null(kind) or (is_whole and self.value_type == pa.int64()):
            return values.cast(self.value_type)
        if self.value_type == pa.float64() and (is_whole or pa.types.is_floating(kind)):
            return pa.array(values.to_numpy(zero_copy_only=False).astype(np.float64) + 0.0, from_pandas=True)
        raise InternerError(
            f"an Interner of {self.value_type} takes values of that type, got {kind}; cast the column first"
        )


def _interner_of(values: pa.Array, dtype: np.dtype) -> Interner:
    made = Interner(pa.string() if pa.types.is_large_string(values.type) else values.type, dtype)
    made.reserve(len(values))
    made.add(values)
    return made


def _joined(parts: list[np.ndarray], dtype: np.dtype) -> np.ndarray:
    return np.concatenate(parts) if parts else np.empty(0, dtype)


def _with_room(array: np.ndarray, used: int, more: int) -> np.ndarray:
    if used + more <= len(array):
        return array
    larger = np.empty(max(used + more, 2 * len(array)), array.dtype)
    larger[:used] = array[:used]
    return larger
