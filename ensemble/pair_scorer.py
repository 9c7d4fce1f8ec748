"""The ranker's score of pairs that a caller names, with everything the request path knows of user, item and moment.

The same operators run as for a request. Only the candidates are not those that the sources propose: what the sources
say of the named items is looked up among their proposals, and an item that none of them proposes has 0 there, as an
item has that the request path fills up with.
"""

from __future__ import annotations

from typing import TypeVar

import numpy as np

from ensemble.operators.fetch_user_features import DEGRADED, SOURCE_NAMES, UNRANKED
from ensemble.operators.fill_candidates import FillCandidates
from ensemble.operators.merge_candidates import MergeCandidates
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.operators.score_candidates import NO_ITEM, ScoreCandidates
from ensemble.pipeline import Pipeline, columns_of
from ensemble.request import Request
from features.errors import CascadeError
from retrieval.merge import Merged

# B users  K named items  S sources  Q proposals of a source  M merged proposals
Operator = TypeVar("Operator", bound=RequestOperator)


class PartDownError(CascadeError):
    """A part of the request path is down. A request is answered without it; scores in bulk would all be others."""


class PairScorer:
    """Args:
    pipeline: the exported request path.
    """

    def __init__(self, pipeline: Pipeline) -> None:
        of_kind = {type(operator): operator for operator in pipeline.operators}
        self._before = pipeline.operators[: [*of_kind].index(MergeCandidates)]
        self._merge = _only(of_kind, MergeCandidates).opened_merge
        self._items = _only(of_kind, FillCandidates).opened_items
        self._score = _only(of_kind, ScoreCandidates)
        self._as_of = pipeline.as_of

    def rows_of(self, item_ids: np.ndarray) -> np.ndarray:
        """Item rows of raw ids, of any shape; NO_ITEM for one that the catalogue does not have."""
        return self._items.rows_of(item_ids)

    def scores(
        self, user_ids: np.ndarray, item_row_BK: np.ndarray, timestamp_B: np.ndarray | None = None
    ) -> tuple[np.ndarray, np.ndarray]:
        """What the ranker says of each user's items; row b depends on row b of the inputs only, bit for bit.

        Args:
            user_ids: [B] object of str, ids as the log has them.
            item_row_BK: int64 rows of `rows_of`; NO_ITEM for none.
            timestamp_B: Unix seconds of the moments; None for the time the features were made.
        Returns: [B, K] float32, -inf where there is no item; and [B] where it comes from, as in a reply: users of
            whom nothing is known ("fallback") get the items' popularity as score, as a request of theirs would.
        Raises: PartDownError if the online store cannot be read, or a candidate source or the ranker fails.
        """
        columns = columns_of(Request.of(user_ids, k=1, timestamp=timestamp_B), self._as_of)
        for operator in self._before:
            columns = columns | operator.run(columns)
        if (columns["source"] == DEGRADED).any() or columns["num_failed_sources"].any():
            raise PartDownError(
                "the online store or a candidate source failed (the log above says which): the scores would be those "
                "of other features than the model learned from; repair it, or run `export` again"
            )
        proposed_BSQ = columns["proposed_row"]
        # All of them: whether a request would have kept the item among its best does not change what is said of it.
        merged = self._merge(proposed_BSQ, proposed_BSQ.shape[1] * proposed_BSQ.shape[2])
        columns |= said_of(merged, item_row_BK) | {"candidate_row": item_row_BK}
        scored = self._score.run(columns)
        if (scored["source"] == UNRANKED).any():
            raise PartDownError("the ranker failed (the log above says why); there are no scores; run `export` again")
        return scored["score"], SOURCE_NAMES[columns["source"]]


def said_of(merged: Merged, item_row_BK: np.ndarray) -> Columns:
    """The merged score and what each source said of the named items."""
    place_BK = np.full(item_row_BK.shape, -1)
    for user, (row_M, row_K) in enumerate(zip(merged.row_BK, item_row_BK, strict=True)):
        order = np.argsort(row_M)
        found = np.minimum(np.searchsorted(row_M[order], row_K), len(row_M) - 1)
        is_there = (row_M[order][found] == row_K) & (row_K != NO_ITEM)
        place_BK[user] = np.where(is_there, order[found], -1)
    proposed_BK = place_BK >= 0
    place_BK = np.maximum(place_BK, 0)
    score_BK = np.take_along_axis(merged.score_BK, place_BK, 1)
    source_BKS = np.take_along_axis(merged.source_BKS, place_BK[..., None], 1)
    return {
        "retrieval_score": np.where(proposed_BK, score_BK, np.float32(0)),
        "candidate_sources": np.where(proposed_BK[..., None], source_BKS, np.float32(0)),
    }


def _only(of_kind: dict[type[RequestOperator], RequestOperator], kind: type[Operator]) -> Operator:
    operator = of_kind[kind]
    assert isinstance(operator, kind)
    return operator
