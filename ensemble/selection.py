"""Choosing among candidates: pure functions over arrays, each row one user, no row touched by another.

Legend: B users  K candidates  S forbidden items  I items
"""

from __future__ import annotations

import numpy as np

NO_ITEM = -1


def drop(row_BK: np.ndarray, forbidden_BS: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Take out each user's forbidden items.

    Args:
        row_BK: item rows; NO_ITEM marks an empty slot.
        forbidden_BS: item rows this user must not get; NO_ITEM pads.
    Returns: row_BK with NO_ITEM where an item was removed, and how many were removed per user [B].
    """
    forbidden_keys = np.sort(_keys(forbidden_BS))
    keys = _keys(row_BK)
    forbidden_BK = np.zeros(row_BK.shape, dtype=bool)
    if len(forbidden_keys):
        place = np.minimum(np.searchsorted(forbidden_keys, keys), len(forbidden_keys) - 1)
        forbidden_BK[row_BK != NO_ITEM] = forbidden_keys[place] == keys
    return np.where(forbidden_BK, NO_ITEM, row_BK), forbidden_BK.sum(1)


def compact(row_BK: np.ndarray, wanted_B: np.ndarray) -> np.ndarray:
    """Move the items of each row to the front, in order, and keep at most the wanted number.

    Returns: [B, max(wanted_B)] item rows, NO_ITEM behind the last.
    """
    width = int(wanted_B.max(initial=0))
    order = np.argsort(row_BK == NO_ITEM, axis=1, kind="stable")[:, :width]
    kept = np.take_along_axis(row_BK, order, 1)
    kept = np.pad(kept, ((0, 0), (0, width - kept.shape[1])), constant_values=NO_ITEM)
    return np.where(np.arange(width) < wanted_B[:, None], kept, NO_ITEM)


def fill(row_BK: np.ndarray, wanted_B: np.ndarray, ranking_I: np.ndarray, forbidden_BS: np.ndarray) -> np.ndarray:
    """Append the best-ranked items that are neither forbidden nor there already to rows that are short.

    Args:
        row_BK: compacted item rows.
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
        free = ranking_I[~np.isin(ranking_I, np.concatenate([present, forbidden_BS[user]]))]
        added = free[: wanted_B[user] - len(present)]
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


def _keys(row_BK: np.ndarray) -> np.ndarray:
    """The items of all users as one flat array, in which one user's never equal another's; empty slots left out."""
    user, place = np.nonzero(row_BK != NO_ITEM)
    return (user << 40) + row_BK[user, place]
