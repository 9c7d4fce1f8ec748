"""Choosing among candidates: pure functions over arrays, each row one user, no row touched by another.

Legend: B users  K candidates  S forbidden items  I items
"""

from __future__ import annotations

import numpy as np

NO_ITEM = -1


def fill(row_BK: np.ndarray, wanted_B: np.ndarray, ranking_I: np.ndarray, forbidden_BS: np.ndarray) -> np.ndarray:
    """Append the best-ranked items that are neither forbidden nor there already to rows that are short.

    Args:
        row_BK: item rows; NO_ITEM behind the last of each user.
        wanted_B: number of items each user must have, as long as the catalogue has that many allowed ones.
        ranking_I: all item rows, best first.
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

    Returns: item rows [B, max(k_B)], NO_ITEM where a user has or wants fewer, and their scores, -inf there.
    """
    width = int(k_B.max(initial=0))
    slate = np.full((len(row_BK), width), NO_ITEM, dtype=np.int64)
    slate_score = np.full(slate.shape, -np.inf, dtype=np.float32)
    if width:
        order = np.lexsort((row_BK, -score_BK, row_BK == NO_ITEM), axis=1)[:, :width]
        best = np.take_along_axis(row_BK, order, 1)
        filled = (best != NO_ITEM) & (np.arange(best.shape[1]) < k_B[:, None])
        slate[:, : best.shape[1]][filled] = best[filled]
        slate_score[:, : best.shape[1]][filled] = np.take_along_axis(score_BK, order, 1)[filled]
    return slate, slate_score
