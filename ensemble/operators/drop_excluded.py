"""DropExcluded: takes out what the request excludes."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import drop


class DropExcluded(RequestOperator):
    """Filter on each user's own exclude list; ids that the catalogue does not have are ignored.

    Args:
        items: the etl stage's `items.parquet`.
    """

    outputs = {  # noqa: RUF012
        "candidate_row": (np.int64, (None,)),
        "excluded_row": (np.int64, (None,)),
        "num_dropped_excluded": (np.int64, ()),
    }

    def __init__(self, items: Path) -> None:
        super().__init__(**{"items.parquet": items})

    def run(self, columns: Columns) -> Columns:
        excluded_BE = self.opened_items.rows_of(columns["exclude"])
        kept_BK, num_dropped_B = drop(columns["candidate_row"], excluded_BE)
        return {"candidate_row": kept_BK, "excluded_row": excluded_BE, "num_dropped_excluded": num_dropped_B}

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
