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
    forbidden = np.isin(_keyed(row_BK), _keyed(forbidden_BS)) & (row_BK != NO_ITEM)
    return np.where(forbidden, NO_ITEM, row_BK), forbidden.sum(1)


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
    """The k best-scored items of each user, best first; equal scores by item row.

    Returns: item rows [B, max(k_B)], NO_ITEM where a user has or wants fewer, and their scores, -inf there.
    """
    width = int(k_B.max(initial=0))
    score_BK = np.where(row_BK == NO_ITEM, -np.inf, score_BK).astype(np.float32)
    order = np.lexsort((row_BK, -score_BK), axis=1)[:, :width]
    missing = ((0, 0), (0, width - order.shape[1]))
    row = np.pad(np.take_along_axis(row_BK, order, 1), missing, constant_values=NO_ITEM)
    score = np.pad(np.take_along_axis(score_BK, order, 1), missing, constant_values=-np.inf)
    empty = (np.arange(width) >= k_B[:, None]) | np.isneginf(score)
    return np.where(empty, NO_ITEM, row), np.where(empty, np.float32(-np.inf), score)


def _keyed(row_BK: np.ndarray) -> np.ndarray:
    """Item rows made distinct per user, so that one user's never match another's."""
    user_B1 = np.arange(len(row_BK), dtype=np.int64)[:, None]
    return np.where(row_BK == NO_ITEM, -1 - user_B1, (user_B1 << 40) + row_BK)
