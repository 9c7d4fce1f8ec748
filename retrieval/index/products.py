"""Scores of found items: the inner product itself, whichever way an item was found."""

from __future__ import annotations

import numba
import numpy as np

from retrieval.best_first import FORBIDDEN, FREE, is_open, item_of, mark, score_of, smallest, sort_key

# Q queries  A those asked now  P found positions  N vectors  W width as stored  S forbidden  K candidates


@numba.njit(nogil=True, cache=True, fastmath=True)
def product(one_W, other_W):
    """float32. The compiler may reorder the sum, but does so for all vectors alike."""
    total = np.float32(0)
    for place in range(len(one_W)):
        total += one_W[place] * other_W[place]
    return total


@numba.njit(nogil=True, cache=True)
def fill_best(asked_A, position_AP, vector_NW, query_QW, allowed_N, forbidden_QS, row_N, mark_N, row_QK, score_QK):
    """Write the best of the positions found for some of the queries, as far as they are allowed; [A] how many."""
    num_A = np.zeros(len(asked_A), np.int64)
    key_P = np.empty(position_AP.shape[1], np.int64)
    for place in range(len(asked_A)):
        query = asked_A[place]
        mark(mark_N, forbidden_QS[query], FORBIDDEN)
        num = 0
        for position in position_AP[place]:
            if position >= 0 and is_open(position, mark_N, allowed_N):
                key_P[num] = sort_key(product(vector_NW[position], query_QW[query]), position)
                num += 1
        mark(mark_N, forbidden_QS[query], FREE)
        best = smallest(key_P[:num], row_QK.shape[1])
        for rank in range(len(best)):
            position = item_of(best[rank])  # positions stand in the order of item rows
            row_QK[query, rank] = row_N[position] if len(row_N) else position
            score_QK[query, rank] = score_of(best[rank])
        num_A[place] = len(best)
    return num_A
