"""MergeCandidates: one list of candidates from what the sources propose."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.candidates import CANDIDATES
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.user_threads import each_part
from retrieval.candidates import load_merge
from retrieval.merge import Merged

# B users  S sources  Q proposals of a source  K candidates
NO_ITEM = -1


class MergeCandidates(RequestOperator):
    """The rule of `retrieval.merge`: weighted reciprocal ranks, and a share for new items.

    Args:
        sources: the retrieval stage's `sources`.
    """

    outputs = CANDIDATES

    def __init__(self, sources: Path) -> None:
        super().__init__(sources=sources)

    def run(self, columns: Columns) -> Columns:
        num = int(columns["wanted"].max(initial=0))
        merged = self._merged(columns["proposed_row"], num)
        if (columns["wanted"] == num).all():  # nearly always
            return {
                "candidate_row": merged.row_BK,
                "retrieval_score": merged.score_BK,
                "candidate_sources": merged.source_BKS,
            }
        beyond_BK = np.arange(merged.row_BK.shape[1]) >= columns["wanted"][:, None]
        return {
            "candidate_row": np.where(beyond_BK, NO_ITEM, merged.row_BK),
            "retrieval_score": np.where(beyond_BK, np.float32(0), merged.score_BK),
            "candidate_sources": np.where(beyond_BK[..., None], np.float32(0), merged.source_BKS),
        }

    def _merged(self, proposed_BSQ: np.ndarray, num: int) -> Merged:
        parts: dict[int, Merged] = {}

        def merge(part: slice) -> None:
            parts[part.start] = self.opened_merge(proposed_BSQ[part], num)

        each_part(len(proposed_BSQ), merge)
        in_order = [parts[start] for start in sorted(parts)]
        if len(in_order) == 1:
            return in_order[0]
        return Merged(
            np.concatenate([one.row_BK for one in in_order]),
            np.concatenate([one.score_BK for one in in_order]),
            np.concatenate([one.source_BKS for one in in_order]),
        )

    def open(self, folder: Path) -> None:
        self.opened_merge = load_merge(folder / "sources")
