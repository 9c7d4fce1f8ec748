"""Scores of found items: the inner product itself, whichever way an item was found."""

from __future__ import annotations

import numba
import numpy as np

from retrieval.best_first import FORBIDDEN, FREE, is_open, item_of, mark, score_of, smallest, sort_key

# Q queries  A those asked now  P found positions  N vectors  W width as stored  S forbidden  K candidates


@numba.njit(nogil=True, cache=True, fastmath=True)
def four_products(one_W, two_W, three_W, four_W, query_W):
    """float32. Four at a time, because vectors lie far apart and are waited for together. The compiler may reorder
    the sums, but does so for all vectors alike."""
    one = two = three = four = np.float32(0)
    for place in range(len(query_W)):
        weight = query_W[place]
        one += one_W[place] * weight
        two += two_W[place] * weight
        three += three_W[place] * weight
        four += four_W[place] * weight
    return one, two, three, four


@numba.njit(nogil=True, cache=True)
def fill_best(asked_A, position_AP, vector_NW, query_QW, allowed_N, forbidden_QS, row_N, mark_N, row_QK, score_QK):
    """Write the best of the positions found for some of the queries, as far as they are allowed; [A] how many."""
    num_A = np.zeros(len(asked_A), np.int64)
    open_P = np.empty(position_AP.shape[1] + 3, np.int64)
    score_P = np.empty(position_AP.shape[1] + 3, np.float32)
    key_P = np.empty(position_AP.shape[1], np.int64)
    for place in range(len(asked_A)):
        query = asked_A[place]
        mark(mark_N, forbidden_QS[query], FORBIDDEN)
        num = 0
        for position in position_AP[place]:
            if position >= 0 and is_open(position, mark_N, allowed_N):
                open_P[num] = position
                num += 1
        mark(mark_N, forbidden_QS[query], FREE)
        open_P[num : num + 3] = 0  # the last four may be fewer: all are added up by the same loop
        for first in range(0, num, 4):
            one, two, three, four = open_P[first], open_P[first + 1], open_P[first + 2], open_P[first + 3]
            score_P[first], score_P[first + 1], score_P[first + 2], score_P[first + 3] = four_products(
                vector_NW[one], vector_NW[two], vector_NW[three], vector_NW[four], query_QW[query]
            )
        for found in range(num):
            key_P[found] = sort_key(score_P[found], open_P[found])
        best = smallest(key_P[:num], row_QK.shape[1])
        for rank in range(len(best)):
            position = item_of(best[rank])  # positions stand in the order of item rows
            row_QK[query, rank] = row_N[position] if len(row_N) else position
            score_QK[query, rank] = score_of(best[rank])
        num_A[place] = len(best)
    return num_A
