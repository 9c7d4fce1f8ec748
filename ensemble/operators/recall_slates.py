"""RecallSlates: slates made earlier, for users for whom the candidate stage could do nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.item_filters import ATTRIBUTES, filters_of
from ensemble.known_slates import KnownSlates
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

    outputs = {  # noqa: RUF012
        "candidate_row": (np.int64, (None,)),
        "retrieval_score": (np.float32, (None,)),
        "candidate_sources": (np.float32, (None, None)),
        "forbidden_row": (np.int64, (None,)),
        "source": (np.int64, ()),
    }

    def __init__(self, items: Path, attributes: Path) -> None:
        super().__init__(**{"items.parquet": items, ATTRIBUTES: attributes})

    def run(self, columns: Columns) -> Columns:
        down = np.flatnonzero(columns["source"] == DEGRADED)
        same = {name: columns[name] for name in self.outputs}
        if not len(down):
            return same
        known = {place: self.opened_slates.of(columns["user"][place]) for place in down.tolist()}
        forbidden_BS = _with_rows(columns["forbidden_row"], {place: slate.seen_row for place, slate in known.items()})
        for_all_I = self.opened_filters.state(int(columns["filter_state"][0])).allowed_I
        allowed = {}
        for place, slate in known.items():
            row_n = slate.row_n[~np.isin(slate.row_n, forbidden_BS[place])]
            row_n = row_n if for_all_I is None else row_n[for_all_I[row_n]]
            allowed[place] = row_n[: columns["wanted"][place]]
        allowed = {place: row_n for place, row_n in allowed.items() if len(row_n)}
        no_row_BK = same["candidate_row"].copy()
        no_row_BK[list(allowed)] = NO_ITEM
        row_BK = _with_rows(no_row_BK, allowed, at=0)
        added = row_BK.shape[1] - no_row_BK.shape[1]
        score_BK = np.pad(same["retrieval_score"], ((0, 0), (0, added)))
        said_BKS = np.pad(same["candidate_sources"], ((0, 0), (0, added), (0, 0)))
        source_B = same["source"].copy()
        for place, row_n in allowed.items():
            score_BK[place] = 0
            score_BK[place, : len(row_n)] = score_of_place(len(row_n))
            said_BKS[place] = 0
            source_B[place] = CACHED
        return {
            "candidate_row": row_BK,
            "retrieval_score": score_BK,
            "candidate_sources": said_BKS,
            "forbidden_row": forbidden_BS,
            "source": source_B,
        }

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


def score_of_place(num: int) -> np.ndarray:
    """[num] float32: 1 / place, the score of an item of a cached slate."""
    return 1 / np.arange(1, num + 1, dtype=np.float32)


def _with_rows(row_BK: np.ndarray, added: dict[int, np.ndarray], at: int | None = None) -> np.ndarray:
    """Rows with some users' more items behind, or from the column `at` on; NO_ITEM pads."""
    start = row_BK.shape[1] if at is None else at
    width = max((start + len(row_n) for row_n in added.values()), default=0)
    wider = np.pad(row_BK, ((0, 0), (0, max(0, width - row_BK.shape[1]))), constant_values=NO_ITEM)
    for place, row_n in added.items():
        wider[place, start : start + len(row_n)] = row_n
    return wider
