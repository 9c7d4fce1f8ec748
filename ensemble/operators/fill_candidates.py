"""FillCandidates: the filters' survivors, at most as many as wanted, and popular items where fewer than k are left."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import compact, fill


class FillCandidates(RequestOperator):
    """The guarantee of k: every user has k candidates while the catalogue has k that no filter forbids.

    Args:
        items: the etl stage's `items.parquet`.
        drop_seen: whether past items are forbidden.
    """

    outputs = {"candidate_row": (np.int64, (None,))}  # noqa: RUF012

    def __init__(self, items: Path, drop_seen: bool) -> None:
        super().__init__(**{"items.parquet": items})
        self.drop_seen = drop_seen

    def run(self, columns: Columns) -> Columns:
        forbidden_BS = columns["excluded_row"]
        if self.drop_seen:
            forbidden_BS = np.concatenate([forbidden_BS, columns["seen_row"]], axis=1)
        kept_BK = compact(columns["candidate_row"], columns["wanted"])
        return {"candidate_row": fill(kept_BK, columns["k"], self.opened_items.by_popularity, forbidden_BS)}

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
