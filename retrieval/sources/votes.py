"""Votes of a history for other items: a weight for each past item times a row of similarities, and the best of the sum.

SciPy's sparse product takes a quarter of a millisecond for one user, most of it in Python; this takes what the entries
take, whatever the size of the catalogue.
"""

from __future__ import annotations

import numba
import numpy as np
from scipy import sparse

from retrieval.best_first import (
    FORBIDDEN,
    FREE,
    MARKS,
    SUMS,
    TOUCHED,
    is_open,
    mark,
    mask_of,
    sort_key,
    write_best,
)
from retrieval.sources.source import NO_ITEM, Proposals, Users

# B users  N history length  I items  S forbidden items  K candidates  V voters  T items with a vote


def best_by_votes(
    users: Users, weight_N: np.ndarray, similarity: sparse.csr_matrix, k: int, *, repeats_count: bool = True
) -> Proposals:
    """The k items with the largest sums over the history of weight_n similarity(item_n, j); ties by item row.

    Items with a sum of 0 or less and forbidden ones are left out. Row b depends on user b only, to the bit.

    Args:
        weight_N: float32 weight of each of the newest N places of the histories; older ones have no vote.
        similarity: [I, I] float32.
        repeats_count: whether an item that stands several times in a history has the sum of its weights, or 1.
    """
    found = Proposals.nothing(len(users), k)
    _fill(
        np.ascontiguousarray(users.history_BN[:, : len(weight_N)], np.int64),
        np.ascontiguousarray(users.forbidden_BS, np.int64),
        mask_of(users.allowed_I),
        weight_N.astype(np.float32),
        repeats_count,
        similarity.indptr,
        similarity.indices,
        similarity.data.astype(np.float32, copy=False),
        MARKS.of(similarity.shape[1]),
        SUMS.of(similarity.shape[1]),
        found.row_BK,
        found.score_BK,
    )
    return found


@numba.njit(nogil=True, cache=True)
def _fill(
    history_BN, forbidden_BS, allowed_I, weight_N, repeats_count, indptr, indices, data, mark_I, sum_I, row_BK, score_BK
):
    for user in range(len(history_BN)):
        item_V, vote_V = _votes(history_BN[user], weight_N, repeats_count)
        num_entries = 0
        for item in item_V:
            num_entries += indptr[item + 1] - indptr[item]
        touched_T = np.empty(num_entries, np.int32)
        num = 0
        for voter in range(len(item_V)):  # in the order of item rows: float sums depend on it
            for entry in range(indptr[item_V[voter]], indptr[item_V[voter] + 1]):
                item = indices[entry]
                if not mark_I[item]:
                    mark_I[item] = TOUCHED
                    touched_T[num] = item
                    num += 1
                sum_I[item] += vote_V[voter] * data[entry]
        mark(mark_I, forbidden_BS[user], FORBIDDEN)
        key_T = np.empty(num, np.int64)
        num_open = 0
        for item in touched_T[:num]:
            if sum_I[item] > 0 and is_open(item, mark_I, allowed_I):
                key_T[num_open] = sort_key(sum_I[item], item)
                num_open += 1
            sum_I[item], mark_I[item] = 0, FREE
        mark(mark_I, forbidden_BS[user], FREE)
        write_best(key_T[:num_open], row_BK[user], score_BK[user])


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
