"""DropSeen: takes out what the user already interacted with."""

from __future__ import annotations

import numpy as np

from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import drop


class DropSeen(RequestOperator):
    """Filter on each user's own past items."""

    outputs = {"candidate_row": (np.int64, (None,)), "num_dropped_seen": (np.int64, ())}  # noqa: RUF012

    def run(self, columns: Columns) -> Columns:
        kept_BK, num_dropped_B = drop(columns["candidate_row"], columns["seen_row"])
        return {"candidate_row": kept_BK, "num_dropped_seen": num_dropped_B}
