"""Feast's `ValueProto`s as arrays, a whole column at a time: the way back from `features.store.value_bytes`.

Source: protobuf.dev/programming-guides/encoding; feast/protos/feast/types/Value.proto.
"""

from __future__ import annotations

from collections.abc import Sequence

import numba
import numpy as np

from features.store.config import StoreError
from features.store.value_bytes import FLOAT_TAG, INT64_LIST_TAG, INT64_TAG, PACKED_TAG

# B users  L list length  W bytes of the values of all users
_BROKEN = -2
"""Of a value of another kind, or cut off."""


def ints(name: str, cells: Sequence[bytes], filler: int) -> np.ndarray:
    """[B] int64; `filler` where there is no value. Raises: StoreError naming the feature if a value is no integer."""
    data_W, end_B = _joined(cells)
    value_B = np.full(len(cells), filler, np.int64)
    _check(name, _read_ints(data_W, end_B, value_B), "an integer")
    return value_B


def floats(name: str, cells: Sequence[bytes]) -> np.ndarray:
    """[B] float32; 0 where there is no value. Raises: StoreError naming the feature if a value is no float."""
    data_W, end_B = _joined(cells)
    value_B = np.zeros(len(cells), np.float32)
    _check(name, _read_floats(data_W, end_B, value_B.view(np.uint32)), "a float")
    return value_B


def int_lists(name: str, cells: Sequence[bytes], filler: int, length: int | None, as_steps: bool = False) -> np.ndarray:
    """[B, L] int64, padded with `filler`; L is the longest list if `length` is None; longer ones are cut.

    Args:
        as_steps: whether `features.store.value_bytes.steps` made them.
    Raises: StoreError naming the feature if a value is no list of integers.
    """
    data_W, end_B = _joined(cells)
    begin_B = np.empty(len(cells), np.int64)
    longest = _find_lists(data_W, end_B, begin_B)
    _check(name, longest, "a list of integers")
    value_BL = np.full((len(cells), longest if length is None else length), filler, np.int64)
    _read_lists(data_W, begin_B, end_B, as_steps, value_BL)
    return value_BL


def _joined(cells: Sequence[bytes]) -> tuple[np.ndarray, np.ndarray]:
    end_B = np.cumsum(np.fromiter(map(len, cells), np.int64, len(cells)))
    return np.frombuffer(b"".join(cells), np.uint8), end_B


def _check(name: str, found: int, kind: str) -> None:
    if found == _BROKEN:
        raise StoreError(f"the online store's {name!r} must be {kind} for every user; run `export` again")


@numba.njit(nogil=True, cache=True)
def _varint(data_W, place, end):
    """The number at a place, and the place behind it; -1 for that if it is cut off."""
    number, shift = np.uint64(0), np.uint64(0)
    while place < end and shift < 70:
        byte = data_W[place]
        number |= np.uint64(byte & 0x7F) << shift
        place += 1
        if byte < 0x80:
            return number, place
        shift += np.uint64(7)
    return number, -1


@numba.njit(nogil=True, cache=True)
def _read_ints(data_W, end_B, value_B):
    begin = 0
    for row in range(len(end_B)):
        end = end_B[row]
        if end > begin:
            number, place = _varint(data_W, begin + 1, end)
            if data_W[begin] != INT64_TAG or place != end:
                return _BROKEN
            value_B[row] = np.int64(number)
        begin = end
    return 0


@numba.njit(nogil=True, cache=True)
def _read_floats(data_W, end_B, bits_B):
    begin = 0
    for row in range(len(end_B)):
        end = end_B[row]
        if end > begin:
            if data_W[begin] != FLOAT_TAG or end != begin + 5:
                return _BROKEN
            bits = np.uint32(0)
            for byte in range(4):
                bits |= np.uint32(data_W[begin + 1 + byte]) << np.uint32(8 * byte)
            bits_B[row] = bits
        begin = end
    return 0


@numba.njit(nogil=True, cache=True)
def _find_lists(data_W, end_B, begin_B):
    """Where the numbers of each list begin; returns the length of the longest list."""
    longest, begin = 0, 0
    for row in range(len(end_B)):
        end, place = end_B[row], begin
        if end > begin:
            size, place = _varint(data_W, begin + 1, end)
            if data_W[begin] != INT64_LIST_TAG or place < 0 or np.int64(size) != end - place:
                return _BROKEN
            if size > 0:
                if data_W[place] != PACKED_TAG:
                    return _BROKEN
                size, place = _varint(data_W, place + 1, end)
                if place < 0 or np.int64(size) != end - place or data_W[end - 1] >= 0x80:
                    return _BROKEN
        begin_B[row] = place
        length = 0
        for at in range(place, end):
            length += data_W[at] < 0x80
        longest, begin = max(longest, length), end
    return longest


@numba.njit(nogil=True, cache=True)
def _read_lists(data_W, begin_B, end_B, as_steps, value_BL):
    for row in range(len(end_B)):
        place, end, before = begin_B[row], end_B[row], np.uint64(0)
        for column in range(value_BL.shape[1]):
            if place >= end:
                break
            number, place = _varint(data_W, place, end)
            if as_steps:
                number += before
                before = number
            value_BL[row, column] = np.int64(number)
