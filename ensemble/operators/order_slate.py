"""OrderSlate: the best-scored k candidates of each user, as raw ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.operators.fetch_user_features import SOURCE_NAMES
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import NO_ITEM, top_k


class OrderSlate(RequestOperator):
    """Deterministic: highest score first, equal scores by item row, so every propensity is 1.

    Args:
        items: the etl stage's `items.parquet`.
    """

    outputs = {  # noqa: RUF012
        "item_ids": ("object", (None,)),
        "scores": (np.float32, (None,)),
        "propensities": (np.float32, (None,)),
        "source_name": ("object", ()),
        "candidate_ids": ("object", (None,)),
        "ranked_ids": ("object", (None,)),
    }

    def __init__(self, items: Path) -> None:
        super().__init__(**{"items.parquet": items})

    def run(self, columns: Columns) -> Columns:
        row_BK, score_BK = columns["candidate_row"], columns["score"]
        slate_Bk, slate_score_Bk = top_k(row_BK, score_BK, columns["k"])
        every_B = np.where(columns["with_candidates"], row_BK.shape[1], 0)
        ranked_BK, _ = top_k(row_BK, score_BK, every_B)
        ids_of = self.opened_items.ids_of
        return {
            "item_ids": ids_of(slate_Bk),
            "scores": slate_score_Bk,
            "propensities": (slate_Bk != NO_ITEM).astype(np.float32),
            "source_name": SOURCE_NAMES[columns["source"]],
            "candidate_ids": ids_of(row_BK[:, : ranked_BK.shape[1]]),
            "ranked_ids": ids_of(ranked_BK),
        }

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
