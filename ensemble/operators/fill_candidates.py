"""FillCandidates: popular items where there are fewer candidates than the user must get."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.operators.fetch_user_features import FALLBACK
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import fill


class FillCandidates(RequestOperator):
    """The guarantee of k: every user has k candidates while the catalogue has k that are not forbidden; users of whom
    nothing is known have as many as others.

    Args:
        items: the etl stage's `items.parquet`.
    """

    outputs = {  # noqa: RUF012
        "candidate_row": (np.int64, (None,)),
        "retrieval_score": (np.float32, (None,)),
        "candidate_sources": (np.float32, (None, None)),
    }

    def __init__(self, items: Path) -> None:
        super().__init__(**{"items.parquet": items})

    def run(self, columns: Columns) -> Columns:
        least_B = np.where(columns["source"] >= FALLBACK, columns["wanted"], columns["k"])
        row_BK = fill(columns["candidate_row"], least_B, self.opened_items.by_popularity, columns["forbidden_row"])
        added = row_BK.shape[1] - columns["candidate_row"].shape[1]  # nobody proposed them
        return {
            "candidate_row": row_BK,
            "retrieval_score": np.pad(columns["retrieval_score"], ((0, 0), (0, added))),
            "candidate_sources": np.pad(columns["candidate_sources"], ((0, 0), (0, added), (0, 0))),
        }

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
