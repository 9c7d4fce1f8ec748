"""From scores to ranked item rows: exact top k, ties by item row, filled with recently popular items."""

# B users  N items of the catalogue  A items that are scored  K ranked slots  F items tried for filling

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from pipelines.baselines.events import Events, History

_CELLS_PER_BLOCK = 1_000_000
"""Scores in work at a time: they are gone over several times, and fit a processor's cache."""

_LEAST_USERS = 16
"""In a block, however many items there are: some scores have a cost for each block."""

_NO_ITEM = -1


def popularity_order(events: Events, window_days: float | None = None) -> np.ndarray:
    """[N] item rows by events within the last `window_days` (None: ever), then by events ever, then by item row."""
    recent_N = events.item_counts if window_days is None else events.window_counts(window_days)
    return np.lexsort((np.arange(events.num_items), -events.item_counts, -recent_N))


def ranked_rows(
    score: Callable[[np.ndarray], np.ndarray],
    user_rows: np.ndarray,
    seen: Events,
    k: int,
    drop_seen: bool,
    fill_order: np.ndarray,
    items_A: np.ndarray,
) -> np.ndarray:
    """Rank the catalogue for each user: the items that are scored, then those of `fill_order`.

    Args:
        score: user rows [b] -> float scores [b, A], -inf where the baseline has nothing to say; overwritten here.
        user_rows: [B] user rows.
        seen: what is known of the users; its items are dropped if `drop_seen`.
        k: slots K.
        fill_order: [N] item rows that fill the slots left, best first.
        items_A: item rows that are scored, ascending.
    Returns: [B, K] int64 item rows, best first; -1 only where the catalogue has no allowed item left.
    """
    ranked_BK = best_of(score, user_rows, k, items_A, seen.history if drop_seen else None)
    return filled(ranked_BK, user_rows, seen.history, drop_seen, fill_order)


def best_of(
    score: Callable[[np.ndarray], np.ndarray],
    user_rows: np.ndarray,
    k: int,
    items_A: np.ndarray,
    dropped: History | None = None,
) -> np.ndarray:
    """The best of the items that are scored, a block of users at a time.

    Args:
        score, user_rows, k, items_A: as in `ranked_rows`.
        dropped: histories whose items must not come back.
    Returns: [B, K] int64 item rows, best first; -1 behind the last one that has a score.
    """
    ranked_BK = np.full((len(user_rows), k), _NO_ITEM, np.int64)
    if not len(items_A):
        return ranked_BK
    block = max(_LEAST_USERS, _CELLS_PER_BLOCK // len(items_A))
    for start in range(0, len(user_rows), block):
        rows = user_rows[start : start + block]
        score_BA = score(rows)
        if dropped is not None:
            user, _, item = dropped.slots(rows)
            place = np.minimum(np.searchsorted(items_A, item), len(items_A) - 1)
            scored = items_A[place] == item
            score_BA[user[scored], place[scored]] = -np.inf
        place_BK = top_rows(score_BA, k)
        ranked_BK[start : start + block] = np.where(place_BK >= 0, items_A[place_BK], _NO_ITEM)
    return ranked_BK


def top_rows(score_BN: np.ndarray, k: int) -> np.ndarray:
    """[B, k] item rows of the k best scores, best first, ties by item row; -1 for a score of -inf or no item at all."""
    num_users, num_items = score_BN.shape
    width = min(k, num_items)
    ranked_BK = np.full((num_users, k), _NO_ITEM, np.int64)
    if not num_users:
        return ranked_BK
    worst_kept_B1 = np.partition(score_BN, num_items - width, axis=1)[:, [num_items - width]]
    kept_BN = score_BN > worst_kept_B1
    tied_BN = score_BN == worst_kept_B1
    room_B1 = width - kept_BN.sum(axis=1, keepdims=True)
    crowded_B = tied_BN.sum(axis=1) > room_B1[:, 0]
    tied_BN[crowded_B] &= tied_BN[crowded_B].cumsum(axis=1) <= room_B1[crowded_B]
    item_BK = np.nonzero(kept_BN | tied_BN)[1].reshape(num_users, width)
    kept_score_BK = np.take_along_axis(score_BN, item_BK, axis=1)
    order_BK = np.argsort(-kept_score_BK, axis=1, kind="stable")
    item_BK = np.take_along_axis(item_BK, order_BK, axis=1)
    item_BK[np.take_along_axis(kept_score_BK, order_BK, axis=1) == -np.inf] = _NO_ITEM
    ranked_BK[:, :width] = item_BK
    return ranked_BK


def filled(
    ranked_BK: np.ndarray, user_rows: np.ndarray, history: History, drop_seen: bool, fill_order: np.ndarray
) -> np.ndarray:
    """Put items of `fill_order` that are neither ranked nor, if `drop_seen`, in the history into the empty slots.

    Args:
        ranked_BK: item rows with every -1 behind the items.
        user_rows: [B] whose rows they are.
    """
    ranked_BK = ranked_BK.copy()
    short = np.flatnonzero((ranked_BK == _NO_ITEM).any(axis=1))
    # Those with like histories share a block, so that one long history does not widen everybody's.
    short = short[np.argsort(history.count[user_rows[short]], kind="stable")]
    place_N = np.empty(len(fill_order), np.int64)
    place_N[fill_order] = np.arange(len(fill_order))
    block = max(1, _CELLS_PER_BLOCK // len(fill_order))
    for start in range(0, len(short), block):
        picked = short[start : start + block]
        ranked_BK[picked] = _filled_block(
            ranked_BK[picked], history.slots(user_rows[picked]) if drop_seen else None, fill_order, place_N
        )
    return ranked_BK


def _filled_block(
    ranked_BK: np.ndarray,
    seen_slots: tuple[np.ndarray, np.ndarray, np.ndarray] | None,
    fill_order: np.ndarray,
    place_N: np.ndarray,
) -> np.ndarray:
    num_users, k = ranked_BK.shape
    longest = int(np.bincount(seen_slots[0], minlength=1).max()) if seen_slots else 0
    num_tried = min(len(fill_order), 2 * k + longest)
    taken_BF = np.zeros((num_users, num_tried), bool)
    ranked = np.nonzero(ranked_BK != _NO_ITEM)
    pairs = [(ranked[0], ranked_BK[ranked])]
    if seen_slots:
        pairs.append((seen_slots[0], seen_slots[2]))
    for user, item in pairs:
        near = place_N[item] < num_tried
        taken_BF[user[near], place_N[item[near]]] = True
    free_BF = np.argsort(taken_BF, axis=1, kind="stable")
    item_BF = np.where(np.take_along_axis(taken_BF, free_BF, axis=1), _NO_ITEM, fill_order[:num_tried][free_BF])
    both = np.concatenate([ranked_BK, item_BF], axis=1)
    order = np.argsort(both == _NO_ITEM, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(both, order, axis=1)
