"""The best-scored items of one user, best first, ties by item row: the end of every source that scores items itself.

A score and an item row become one 64-bit number that sorts the way candidates do, so that choosing needs no second sort
for ties and no index array; which items a user may not get is marked in an array that is kept from call to call.
"""

from __future__ import annotations

import threading

import numba
import numpy as np

# I items  K candidates  S forbidden items  N entries
FREE, FORBIDDEN, TOUCHED = 0, 1, 2
_EVERYTHING = np.ones(0, dtype=bool)


class Scratch(threading.local):
    """An array as long as the catalogue, one a thread. Whoever uses it leaves it as it was: all 0."""

    def __init__(self, dtype: type) -> None:
        self._value_I = np.zeros(0, dtype)

    def of(self, num_items: int) -> np.ndarray:
        """[at least I]"""
        if len(self._value_I) < num_items:
            self._value_I = np.zeros(num_items, self._value_I.dtype)
        return self._value_I


MARKS, SUMS = Scratch(np.uint8), Scratch(np.float32)


def mask_of(allowed_I: np.ndarray | None) -> np.ndarray:
    """What the kernels take for a mask: one without entries allows everything."""
    return _EVERYTHING if allowed_I is None else allowed_I


@numba.njit(nogil=True, cache=True)
def sort_key(score, item):
    """int64 that is the smaller, the higher the float32 score, and at equal scores the lower the item row."""
    bits = np.int64(np.float32(score + np.float32(0)).view(np.int32))  # + 0 turns -0 into 0
    rising = bits ^ (np.int64(0x7FFFFFFF) if bits < 0 else np.int64(0))
    return ((-rising - 1) << 32) | np.int64(item)


@numba.njit(nogil=True, cache=True)
def item_of(key):
    return key & np.int64(0xFFFFFFFF)


@numba.njit(nogil=True, cache=True)
def score_of(key):
    rising = -(key >> 32) - 1
    bits = rising ^ (np.int64(0x7FFFFFFF) if rising < 0 else np.int64(0))
    return np.int32(bits).view(np.float32)


@numba.njit(nogil=True, cache=True)
def write_best(key_N, row_K, score_K):
    """Write the items with the smallest keys, and their scores, into row_K and score_K; what is left over stays."""
    best = smallest(key_N, len(row_K))
    for place in range(len(best)):
        row_K[place], score_K[place] = item_of(best[place]), score_of(best[place])


@numba.njit(nogil=True, cache=True)
def smallest(key_N, k):
    """The k smallest of distinct keys, ascending."""
    if 0 < k < len(key_N):
        key_N = np.partition(key_N, k - 1)[:k]
    return np.sort(key_N)[:k]


@numba.njit(nogil=True, cache=True)
def mark(mark_I, forbidden_S, value):
    """Mark the forbidden items that the catalogue has."""
    for item in forbidden_S:
        if 0 <= item < len(mark_I):
            mark_I[item] = value


@numba.njit(nogil=True, cache=True)
def is_open(item, mark_I, allowed_I):
    """Whether an item is neither forbidden to this user nor kept from everybody."""
    return not mark_I[item] & FORBIDDEN and (not len(allowed_I) or (item < len(allowed_I) and allowed_I[item]))


@numba.njit(nogil=True, cache=True)
def fill_from_columns(score_BM, item_M, forbidden_BS, allowed_I, mark_I, row_BK, score_BK):
    """For `source.best_of_columns`."""
    key_M = np.empty(len(item_M), np.int64)
    for user in range(len(score_BM)):
        mark(mark_I, forbidden_BS[user], FORBIDDEN)
        num = 0
        for place in range(len(item_M)):
            if is_open(item_M[place], mark_I, allowed_I):
                key_M[num] = sort_key(score_BM[user, place], item_M[place])
                num += 1
        write_best(key_M[:num], row_BK[user], score_BK[user])
        mark(mark_I, forbidden_BS[user], FREE)
