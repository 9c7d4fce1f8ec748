"""RecallSlates: slates made earlier, for users for whom the candidate stage could do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.candidates import CANDIDATES, widened
from ensemble.catalogue import Catalogue
from ensemble.item_filters import ATTRIBUTES, filters_of
from ensemble.known_slates import KnownSlates, score_of_place
from ensemble.operators.fetch_user_features import CACHED, COLD, DEGRADED, PERSONAL
from ensemble.operators.operator import Columns, RequestOperator

# B users  K candidates  S forbidden items
NO_ITEM = -1


class RecallSlates(RequestOperator):
    """Gives users who are `degraded` the slate that is known of them, less what is forbidden now, as candidates; then
    they are `cached`. What they had, as the cached slate knows it, is forbidden too: the store could not say.

    Args:
        items: the etl stage's `items.parquet`.
        attributes: the items' raw attributes.
    """

    outputs = CANDIDATES | {"forbidden_row": (np.int64, (None,)), "source": (np.int64, ())}

    def __init__(self, items: Path, attributes: Path) -> None:
        super().__init__(**{"items.parquet": items, ATTRIBUTES: attributes})

    def run(self, columns: Columns) -> Columns:
        down = np.flatnonzero(columns["source"] == DEGRADED)
        if not len(down):
            return {name: columns[name] for name in self.outputs}
        known = {place: self.opened_slates.of(columns["user"][place]) for place in down.tolist()}
        forbidden_BS = _with_rows(columns["forbidden_row"], {place: slate.seen_row for place, slate in known.items()})
        for_all_I = self.opened_filters.at(columns["filter_state"]).allowed_I
        allowed = {}
        for place, slate in known.items():
            row_n = slate.row_n[~np.isin(slate.row_n, forbidden_BS[place])]
            row_n = row_n if for_all_I is None else row_n[for_all_I[row_n]]
            allowed[place] = row_n[: columns["wanted"][place]]
        allowed = {place: row_n for place, row_n in allowed.items() if len(row_n)}
        recalled = widened(columns, max(map(len, allowed.values()), default=0))
        row_BK, score_BK, said_BKS = (recalled[name] for name in CANDIDATES)
        source_B = columns["source"].copy()
        for place, row_n in allowed.items():
            row_BK[place], score_BK[place], said_BKS[place] = NO_ITEM, 0, 0
            row_BK[place, : len(row_n)] = row_n
            score_BK[place, : len(row_n)] = score_of_place(len(row_n))
            source_B[place] = CACHED
        return recalled | {"forbidden_row": forbidden_BS, "source": source_B}

    def remember(self, columns: Columns) -> None:
        """Keep what was ranked, from the columns of a whole run."""
        ranked = np.flatnonzero((columns["source"] == PERSONAL) | (columns["source"] == COLD))
        if len(ranked):
            users = columns["user"][ranked].tolist()
            self.opened_slates.remember(users, columns["candidate_row"][ranked], columns["score"][ranked])

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
        self.opened_filters = filters_of(folder, self.opened_config.filters)
        self.opened_slates = KnownSlates(self.opened_config.cache, self.opened_items.rows_of)


def _with_rows(row_BS: np.ndarray, added: dict[int, np.ndarray]) -> np.ndarray:
    """Rows with some users' more items behind; NO_ITEM pads."""
    start, width = row_BS.shape[1], max(map(len, added.values()))
    wider = np.pad(row_BS, ((0, 0), (0, width)), constant_values=NO_ITEM)
    for place, row_n in added.items():
        wider[place, start : start + len(row_n)] = row_n
    return wider
