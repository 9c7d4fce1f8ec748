"""ForbidItems: what this user must not get, and what nobody may."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.item_filters import ATTRIBUTES, filters_of
from ensemble.operators.operator import Columns, RequestOperator

# B users  E excluded  M allowed  S seen  I items
NO_ITEM = -1


class ForbidItems(RequestOperator):
    """Each user's own exclude list, the past items where they are not to come back, the only ones that the request
    allows, and the state of the rules and the stock (`serving.filters`), which hold for everybody.

    They are kept out of every search, so that filters cost no candidates. Ids that the catalogue does not have are
    ignored. `removed_...` counts the items of the catalogue that a filter keeps from the user, whatever the others do.

    Args:
        items: the etl stage's `items.parquet`.
        attributes: the items' raw attributes, row i = item row i.
        drop_seen: whether past items are forbidden.
    """

    outputs = {  # noqa: RUF012
        "forbidden_row": (np.int64, (None,)),
        "allowed_row": (np.int64, (None,)),
        "is_restricted": (bool, ()),
        "filter_state": (np.int64, ()),
        "removed_seen": (np.int64, ()),
        "removed_exclude": (np.int64, ()),
        "removed_allow": (np.int64, ()),
        "removed_rules": (np.int64, ()),
        "removed_stock": (np.int64, ()),
    }

    def __init__(self, items: Path, attributes: Path, drop_seen: bool) -> None:
        super().__init__(**{"items.parquet": items, ATTRIBUTES: attributes})
        self.drop_seen = drop_seen

    def run(self, columns: Columns) -> Columns:
        excluded_BE = self.opened_items.rows_of(columns["exclude"])
        allowed_BM = self.opened_items.rows_of(columns["allow"])
        seen_BS = columns["seen_row"] if self.drop_seen else columns["seen_row"][:, :0]
        restricted_B = (columns["allow"] != "").any(1)
        state, num_users = self.opened_filters.now, len(excluded_BE)
        num_allowed_B = _num_distinct(allowed_BM)
        return {
            "forbidden_row": np.concatenate([excluded_BE, seen_BS], axis=1),
            "allowed_row": allowed_BM,
            "is_restricted": restricted_B,
            "filter_state": np.full(num_users, state.number),
            "removed_seen": (seen_BS != NO_ITEM).sum(1),
            "removed_exclude": _num_distinct(excluded_BE),
            "removed_allow": np.where(restricted_B, len(self.opened_items) - num_allowed_B, 0),
            "removed_rules": np.full(num_users, state.num_against_rules),
            "removed_stock": np.full(num_users, state.num_out_of_stock),
        }

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
        self.opened_filters = filters_of(folder, self.opened_config.filters)


def _num_distinct(row_BN: np.ndarray) -> np.ndarray:
    """[B] different items of each user."""
    if not row_BN.shape[1]:
        return np.zeros(len(row_BN), np.int64)
    sorted_BN = np.sort(row_BN, axis=1)
    is_first_BN = np.diff(sorted_BN, axis=1, prepend=NO_ITEM - 1) != 0
    return (is_first_BN & (sorted_BN != NO_ITEM)).sum(1)
