"""FillCandidates: popular items where there are fewer candidates than the user must get."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.candidates import CANDIDATES, widened
from ensemble.catalogue import Catalogue
from ensemble.item_filters import ATTRIBUTES, FilterState, filters_of
from ensemble.operators.fetch_user_features import FALLBACK
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import NO_ITEM, fill


class FillCandidates(RequestOperator):
    """The guarantee of k: every user has k candidates while the catalogue has k that may be shown; users of whom
    nothing is known have as many as others. Users with a list of allowed items have all of it already.

    Args:
        items: the etl stage's `items.parquet`.
        attributes: the items' raw attributes.
    """

    outputs = CANDIDATES

    def __init__(self, items: Path, attributes: Path) -> None:
        super().__init__(**{"items.parquet": items, ATTRIBUTES: attributes})

    def run(self, columns: Columns) -> Columns:
        least_B = np.where(columns["source"] >= FALLBACK, columns["wanted"], columns["k"])
        least_B = np.where(columns["is_restricted"], 0, least_B)
        if ((columns["candidate_row"] != NO_ITEM).sum(1) >= least_B).all():  # nearly always
            return {name: columns[name] for name in self.outputs}
        ranking = self._ranking(self.opened_filters.at(columns["filter_state"]))
        row_BK = fill(columns["candidate_row"], least_B, ranking, columns["forbidden_row"])
        return widened(columns, row_BK.shape[1]) | {"candidate_row": row_BK}  # nobody proposed what was added

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
        self.opened_filters = filters_of(folder, self.opened_config.filters)
        self.opened_ranking: tuple[FilterState | None, np.ndarray] = (None, self.opened_items.by_popularity)

    def _ranking(self, state: FilterState) -> np.ndarray:
        """The items that may be shown to anybody, most popular first; made once for each state."""
        made_for, ranking = self.opened_ranking
        if made_for is not state:
            everything = self.opened_items.by_popularity
            ranking = everything if state.allowed_I is None else everything[state.allowed_I[everything]]
            self.opened_ranking = state, ranking
        return ranking
