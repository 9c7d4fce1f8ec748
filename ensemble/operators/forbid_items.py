"""ForbidItems: what this user must not get."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.operators.operator import Columns, RequestOperator


class ForbidItems(RequestOperator):
    """Each user's own exclude list, and the past items where they are not to come back.

    They are kept out of every search, so that filters cost no candidates. Ids that the catalogue does not have are
    ignored.

    Args:
        items: the etl stage's `items.parquet`.
        drop_seen: whether past items are forbidden.
    """

    outputs = {"forbidden_row": (np.int64, (None,))}  # noqa: RUF012

    def __init__(self, items: Path, drop_seen: bool) -> None:
        super().__init__(**{"items.parquet": items})
        self.drop_seen = drop_seen

    def run(self, columns: Columns) -> Columns:
        forbidden_BS = self.opened_items.rows_of(columns["exclude"])
        if self.drop_seen:
            forbidden_BS = np.concatenate([forbidden_BS, columns["seen_row"]], axis=1)
        return {"forbidden_row": forbidden_BS}

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
