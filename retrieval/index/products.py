"""Scores of found items: the inner product itself, whichever way an item was found."""

from __future__ import annotations

import numba
import numpy as np

from retrieval.best_first import FORBIDDEN, FREE, is_open, item_of, mark, score_of, smallest, sort_key

# P found positions  N vectors  W width as stored


@numba.njit(nogil=True, cache=True, fastmath=True)
def product(one_W, other_W):
    """float32. The compiler may reorder the sum, but does so for all vectors alike."""
    total = np.float32(0)
    for place in range(len(one_W)):
        total += one_W[place] * other_W[place]
    return total


@numba.njit(nogil=True, cache=True)
def fill_best(position_P, vector_NW, query_W, allowed_N, forbidden, row_N, mark_N, row_K, score_K):
    """Write the best of the found positions that are allowed; how many there are."""
    mark(mark_N, forbidden, FORBIDDEN)
    key_P = np.empty(len(position_P), np.int64)
    num = 0
    for position in position_P:
        if position >= 0 and is_open(position, mark_N, allowed_N):
            key_P[num] = sort_key(product(vector_NW[position], query_W), position)
            num += 1
    mark(mark_N, forbidden, FREE)
    best = smallest(key_P[:num], len(row_K))
    for place in range(len(best)):
        position = item_of(best[place])  # positions stand in the order of item rows
        row_K[place] = row_N[position] if len(row_N) else position
        score_K[place] = score_of(best[place])
    return len(best)
