"""Choosing among candidates: pure functions over arrays, each row one user, no row touched by another.

Legend: B users  K candidates  S forbidden items  I items
"""

from __future__ import annotations

import numba
import numpy as np

from retrieval.best_first import sort_key, write_best

NO_ITEM = -1
_LAST = np.array(0xFFC00000, np.uint32).view(np.float32)[()]
"""The nan whose bits sort below -inf."""


def keep_allowed(row_K: np.ndarray, allowed: np.ndarray, wanted: int) -> tuple[np.ndarray, np.ndarray]:
    """One user's candidates cut down to the allowed items, and the other allowed items behind them up to the number
    wanted.

    Args:
        row_K: item rows; NO_ITEM in empty slots.
        allowed: item rows, best first.
    Returns: the places of row_K that stay, in their order, and the item rows to put behind them.
    """
    order = np.flatnonzero((row_K != NO_ITEM) & np.isin(row_K, allowed))[:wanted]
    return order, allowed[~np.isin(allowed, row_K[order])][: wanted - len(order)]


def fill(row_BK: np.ndarray, wanted_B: np.ndarray, ranking_I: np.ndarray, forbidden_BS: np.ndarray) -> np.ndarray:
    """Append the best-ranked items that are neither forbidden nor there already to rows that are short.

    Args:
        row_BK: item rows; NO_ITEM behind the last of each user.
        wanted_B: number of items each user must have, as long as the catalogue has that many allowed ones.
        ranking_I: all item rows that may be shown to anybody, best first.
    Returns: row_BK, wider if a row needed it.
    """
    short = np.flatnonzero((row_BK != NO_ITEM).sum(1) < wanted_B)
    if not len(short):
        return row_BK
    width = max(row_BK.shape[1], int(wanted_B.max()))
    filled = np.pad(row_BK, ((0, 0), (0, width - row_BK.shape[1])), constant_values=NO_ITEM)
    for user in short:  # rare: a thin index, or nearly everything forbidden
        present = filled[user][filled[user] != NO_ITEM]
        taken = np.concatenate([present, forbidden_BS[user]])
        best = ranking_I[: wanted_B[user] + len(taken)]  # at least so many are free as are wanted, if there are
        added = best[~np.isin(best, taken)][: wanted_B[user] - len(present)]
        filled[user, len(present) : len(present) + len(added)] = added
    return filled


def top_k(row_BK: np.ndarray, score_BK: np.ndarray, k_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The k best-scored items of each user, best first; equal scores by item row, nan last.

    Args:
        row_BK: int64 item rows, none twice; NO_ITEM in empty slots.
        score_BK: float32.
    Returns: item rows [B, max(k_B)], NO_ITEM where a user has or wants fewer, and their scores, -inf there.
    """
    shape = len(row_BK), int(k_B.max(initial=0))
    slate = np.full(shape, NO_ITEM, dtype=np.int64)
    slate_score = np.full(shape, -np.inf, dtype=np.float32)
    if shape[1]:
        _fill_best(row_BK, score_BK, k_B, slate, slate_score)
    return slate, slate_score


@numba.njit(nogil=True, cache=True)
def _fill_best(row_BK, score_BK, k_B, slate, slate_score):
    key_K = np.empty(row_BK.shape[1], np.int64)
    for user in range(len(row_BK)):
        num = 0
        for place in range(row_BK.shape[1]):
            if row_BK[user, place] != NO_ITEM:
                score = score_BK[user, place]
                key_K[num] = sort_key(_LAST if np.isnan(score) else score, row_BK[user, place])
                num += 1
        write_best(key_K[:num], slate[user, : k_B[user]], slate_score[user, : k_B[user]])
