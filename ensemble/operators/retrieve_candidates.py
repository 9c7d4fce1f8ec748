"""RetrieveCandidates: query vector -> the nearest items; popular items for users of whom nothing is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.operators.fetch_user_features import FALLBACK
from ensemble.operators.operator import Columns, RequestOperator
from retrieval.index import load, search

NO_ITEM = -1


class RetrieveCandidates(RequestOperator):
    """Fetches as many items more than wanted as the filters could take away, so that enough are left.

    Args:
        index: the index stage's `index.faiss`.
        items: the etl stage's `items.parquet`.
        num_candidates: candidates wanted behind the filters, or k if that is more.
        drop_seen: whether past items will be filtered.
    """

    outputs = {"candidate_row": (np.int64, (None,)), "wanted": (np.int64, ())}  # noqa: RUF012

    def __init__(self, index: Path, items: Path, num_candidates: int, drop_seen: bool) -> None:
        super().__init__(**{"index.faiss": index, "items.parquet": items})
        self.num_candidates = num_candidates
        self.drop_seen = drop_seen

    def run(self, columns: Columns) -> Columns:
        wanted_B = np.maximum(self.num_candidates, columns["k"])
        depth_B = wanted_B + (columns["exclude"] != "").sum(1)
        if self.drop_seen:
            depth_B = depth_B + (columns["seen_row"] != NO_ITEM).sum(1)
        # A power of two, and one search for each: how deep a user is searched does not depend on the others.
        depth_B = np.minimum(2 ** np.ceil(np.log2(depth_B)).astype(np.int64), len(self.opened_items))
        row_BK = np.full((len(depth_B), int(depth_B.max())), NO_ITEM, dtype=np.int64)
        popular_B = columns["source"] >= FALLBACK
        for depth in np.unique(depth_B):
            asked = np.flatnonzero((depth_B == depth) & ~popular_B)
            row_BK[asked, :depth] = search(self.opened_index, columns["query_vector"][asked], int(depth))[0]
            row_BK[(depth_B == depth) & popular_B, :depth] = self.opened_items.by_popularity[:depth]
        return {"candidate_row": row_BK, "wanted": wanted_B}

    def open(self, folder: Path) -> None:
        self.opened_index = load(folder / "index.faiss")
        self.opened_items = Catalogue(folder / "items.parquet")
