"""Items named by encoded id, as features have them, and by row, as the index and the candidates have them."""

from __future__ import annotations

import numpy as np

from features.schema import FIRST_KNOWN

# B users  N history length  S items of the longest list
NO_ITEM = -1


class ItemRows:
    """Args:
    item_id_I: encoded id of each item row; several rows share the id of the unseen.
    """

    def __init__(self, item_id_I: np.ndarray) -> None:
        self._row_of_id = np.full(max(int(item_id_I.max(initial=0)), FIRST_KNOWN) + 2, NO_ITEM)
        is_known = item_id_I >= FIRST_KNOWN
        self._row_of_id[item_id_I[is_known]] = np.flatnonzero(is_known)

    def of_ids(self, history_BN: np.ndarray) -> np.ndarray:
        """[B, N] item rows of encoded ids; NO_ITEM for padding, and for an id that names no item of its own."""
        return self._row_of_id[np.clip(history_BN, 0, len(self._row_of_id) - 1)]


def padded_lists(list_of: np.ndarray, item_row: np.ndarray, num_lists: int) -> np.ndarray:
    """[num_lists, S] item rows, NO_ITEM behind each list's last.

    Args:
        list_of: [pairs] number of the list, ascending.
        item_row: [pairs].
    """
    length = np.bincount(list_of, minlength=num_lists)
    padded = np.full((num_lists, int(length.max(initial=0))), NO_ITEM, np.int64)
    padded[list_of, np.arange(len(list_of)) - np.repeat(np.cumsum(length) - length, length)] = item_row
    return padded
