"""Votes of a history for other items: a weight for each past item times a row of similarities, and the best of the sum.

SciPy's sparse product takes a quarter of a millisecond for one user, most of it in Python; this takes what the entries
take, whatever the size of the catalogue.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse

from retrieval.sources.source import NO_ITEM, Proposals

# B users  N history length  I items  S forbidden items  K candidates  T places of the hash table
_FREE = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)


def best_by_votes(
    history_BN: np.ndarray,
    weight_N: np.ndarray,
    similarity: sparse.csr_matrix,
    forbidden_BS: np.ndarray,
    k: int,
    *,
    repeats_count: bool = True,
) -> Proposals:
    """The k items with the largest sums over the history of weight_n similarity(item_n, j); ties by item row.

    Items with a sum of 0 or less and forbidden ones are left out. Row b depends on user b only, to the bit.

    Args:
        history_BN: item rows, the newest first; NO_ITEM pads.
        weight_N: float32 weight of each place.
        similarity: [I, I] float32.
        repeats_count: whether an item that stands several times in a history has the sum of its weights, or 1.
    """
    found = Proposals.nothing(len(history_BN), k)
    _fill(
        np.ascontiguousarray(history_BN, np.int64),
        np.ascontiguousarray(forbidden_BS, np.int64),
        weight_N.astype(np.float32),
        repeats_count,
        similarity.indptr,
        similarity.indices,
        similarity.data.astype(np.float32, copy=False),
        found.row_BK,
        found.score_BK,
    )
    return found


@numba.njit(nogil=True, cache=True)
def _fill(history_BN, forbidden_BS, weight_N, repeats_count, indptr, indices, data, row_BK, score_BK):
    for user in range(len(history_BN)):
        item_V, vote_V = _votes(history_BN[user], weight_N, repeats_count)
        num_entries = len(forbidden_BS[user])
        for item in item_V:
            num_entries += indptr[item + 1] - indptr[item]
        bits = 4
        while (1 << bits) < 2 * num_entries:
            bits += 1
        item_T, score_T = np.full(1 << bits, _FREE, np.int64), np.zeros(1 << bits, np.float32)
        for voter in range(len(item_V)):  # in the order of item rows: float sums depend on it
            for entry in range(indptr[item_V[voter]], indptr[item_V[voter] + 1]):
                score_T[_place(item_T, bits, indices[entry])] += vote_V[voter] * data[entry]
        for item in forbidden_BS[user]:
            if item != NO_ITEM:
                score_T[_place(item_T, bits, item)] = 0
        kept = score_T > 0
        best_first(item_T[kept], score_T[kept], row_BK[user], score_BK[user])


@numba.njit(nogil=True, cache=True)
def _votes(history_N, weight_N, repeats_count):
    """Distinct items of a history, ascending, and what each of them has to say."""
    item_V, vote_V = np.empty(len(history_N), np.int64), np.empty(len(history_N), np.float32)
    num = 0
    for place in np.argsort(history_N, kind="mergesort"):
        item = history_N[place]
        if item == NO_ITEM:
            continue
        if num and item_V[num - 1] == item:
            vote_V[num - 1] += weight_N[place]
        else:
            item_V[num], vote_V[num] = item, weight_N[place]
            num += 1
    if not repeats_count:
        vote_V[:num] = 1
    return item_V[:num], vote_V[:num]


@numba.njit(nogil=True, cache=True)
def _place(item_T, bits, item):
    """Where the table has an item; one that it does not have is put there."""
    place = np.int64((np.uint64(item) * _MIX) >> np.uint64(64 - bits))
    while item_T[place] != _FREE and item_T[place] != item:
        place = (place + 1) & (len(item_T) - 1)
    item_T[place] = item
    return place


@numba.njit(nogil=True, cache=True)
def best_first(item, score, row_K, score_K):
    """Write the best-scored items into row_K and their scores into score_K; ties by item row."""
    k = len(row_K)
    if 0 < k < len(score):
        least = np.partition(score, len(score) - k)[len(score) - k]
        kept = score >= least
        item, score = item[kept], score[kept]
    by_item = np.argsort(item, kind="mergesort")
    item, score = item[by_item], score[by_item]
    order = np.argsort(-score, kind="mergesort")[:k]
    for place in range(len(order)):
        row_K[place], score_K[place] = item[order[place]], score[order[place]]
