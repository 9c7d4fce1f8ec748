"""Loops over the codes of dictionary-encoded Arrow arrays: what is done once a value instead of once a row."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numba import njit

from features.ops.arrow_buffers import bits, numbers
from features.ops.hash_table import is_valid


def first_appearances(values: pa.DictionaryArray) -> np.ndarray:
    """Places in the dictionary that occur in the rows, in the order in which they first do."""
    order = np.empty(len(values.dictionary), np.int64)
    return order[: _first_appearances(*_codes(values), order)]


def counts(values: pa.DictionaryArray) -> np.ndarray:
    """Rows of each value of the dictionary, int64 [values]; nulls are not counted."""
    found = np.zeros(len(values.dictionary), np.int64)
    _count(*_codes(values), found)
    return found


def take(table: np.ndarray, values: pa.DictionaryArray, null: Any) -> np.ndarray:
    """For each row the entry of a table [values of the dictionary]; `null` where the row is null."""
    taken = np.empty(len(values), table.dtype)
    _take(*_codes(values), table, table.dtype.type(null), taken)
    return taken


def _codes(values: pa.DictionaryArray) -> tuple[np.ndarray, np.ndarray, int]:
    codes = values.indices if values.type.index_type == pa.int32() else values.indices.cast(pa.int32())
    return numbers(codes), *bits(codes)


@njit(nogil=True, cache=True)
def _first_appearances(codes, validity, first_bit, order):
    seen = np.zeros(len(order), np.bool_)
    num_seen = 0
    for row in range(len(codes)):
        if is_valid(validity, first_bit + row) and not seen[codes[row]]:
            seen[codes[row]] = True
            order[num_seen] = codes[row]
            num_seen += 1
            if num_seen == len(order):
                break
    return num_seen


@njit(nogil=True, cache=True)
def _count(codes, validity, first_bit, found):
    if len(validity) == 0:
        for row in range(len(codes)):
            found[codes[row]] += 1
        return
    for row in range(len(codes)):
        if is_valid(validity, first_bit + row):
            found[codes[row]] += 1


@njit(nogil=True, cache=True)
def _take(codes, validity, first_bit, table, null, taken):
    if len(validity) == 0:
        for row in range(len(codes)):
            taken[row] = table[codes[row]]
        return
    for row in range(len(codes)):
        taken[row] = table[codes[row]] if is_valid(validity, first_bit + row) else null
