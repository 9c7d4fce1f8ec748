"""The request path for one user, step by step: as it is, and as if the user had clicked or other rules held."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value

from ensemble.item_filters import FilterState
from ensemble.operators.encode_query import EncodeQuery
from ensemble.operators.fetch_user_features import FetchUserFeatures
from ensemble.operators.forbid_items import ForbidItems
from ensemble.operators.merge_candidates import MergeCandidates
from ensemble.operators.operator import Columns
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.operators.score_candidates import ScoreCandidates
from ensemble.pair_scorer import said_of
from ensemble.pipeline import Pipeline, columns_of
from ensemble.request import Request
from features.live.encoding import Encoding
from features.live.target import ITEMS, STORE, changed_values
from features.live.user_state import LiveEvent
from features.store.repository import SEEN

# B = 1 user  S sources  Q proposals of a source  K candidates  I items
NO_ITEM = -1


@dataclass(frozen=True, eq=False)
class Steps:
    """What the request path did for one user."""

    columns: Columns
    """Every column, as `Pipeline.columns` gives them."""
    merged_row_K: np.ndarray
    """Item rows as the sources' proposals were merged, before anything was put beside them."""
    query_cosine: float
    """Of the query vector with the one without the clicks."""


class WhatIf:
    """Nothing is written: clicks change the columns of this request only, rules a state that no other request sees.

    Args:
        pipeline: the exported request path; requests to it must not run meanwhile.
        version_folder: where it was loaded from.
    """

    def __init__(self, pipeline: Pipeline, version_folder: Path) -> None:
        self._pipeline, self._folder = pipeline, version_folder
        of_kind = {type(operator): operator for operator in pipeline.operators}
        self._fetch: FetchUserFeatures = of_kind[FetchUserFeatures]  # pyright: ignore[reportAttributeAccessIssue]
        self._encode: EncodeQuery = of_kind[EncodeQuery]  # pyright: ignore[reportAttributeAccessIssue]
        self._forbid: ForbidItems = of_kind[ForbidItems]  # pyright: ignore[reportAttributeAccessIssue]
        self._retrieve: RetrieveCandidates = of_kind[RetrieveCandidates]  # pyright: ignore[reportAttributeAccessIssue]
        self._merge: MergeCandidates = of_kind[MergeCandidates]  # pyright: ignore[reportAttributeAccessIssue]
        self.score: ScoreCandidates = of_kind[ScoreCandidates]  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def drops_seen(self) -> bool:
        """Whether a user's past items are forbidden."""
        return self._forbid.drop_seen

    def filters(self, columns: Columns) -> FilterState:
        """What was kept from everybody in a run."""
        return self._forbid.opened_filters.at(columns["filter_state"])

    def steps(self, request: Request, clicks: Sequence[str] = (), rules_I: np.ndarray | bool = True) -> Steps:
        """Run the request of one user.

        Args:
            clicks: ids of items that the user is to have had, the oldest first; the catalogue must have them. They
                happen at the moment of the request, but not before that of the features, one second apart.
            rules_I: bool, the items for which the rules hold, in place of what is configured; False for no rules, True
                for those that are configured.
        """
        columns, merged_row_K, query_cosine = columns_of(request, self._pipeline.as_of), np.empty(0, np.int64), 1.0
        for operator in self._pipeline.operators:
            if operator is self._fetch and clicks:
                as_known = columns | self._fetch.run(columns)
                columns |= self._after(columns, clicks)
                query_cosine = _cosine(*(self._encode.run(one)["query_vector"][0] for one in (as_known, columns)))
            else:
                columns |= operator.run(columns)
            if operator is self._forbid and rules_I is not True:
                state = self._forbid.opened_filters.suppose(None if rules_I is False else rules_I)
                columns["filter_state"] = np.full(len(request), state.number)
                columns["removed_rules"] = np.full(len(request), state.num_against_rules)
            if operator is self._merge:
                merged_row_K = columns["candidate_row"][0]
        return Steps(columns, merged_row_K[merged_row_K != NO_ITEM], query_cosine)

    def with_candidates(self, steps: Steps, rows: np.ndarray) -> Columns:
        """The columns as if these items, [K], were the candidates: with what the sources say of each, and its score."""
        proposed_BSQ = steps.columns["proposed_row"]
        merged = self._merge.opened_merge(proposed_BSQ, proposed_BSQ.shape[1] * proposed_BSQ.shape[2])
        columns = steps.columns | said_of(merged, rows[None]) | {"candidate_row": rows[None]}
        return columns | self.score.run(columns)

    def all_merged(self, steps: Steps) -> np.ndarray:
        """Item rows of everything that was proposed, in the order of the merge."""
        proposed_BSQ = steps.columns["proposed_row"]
        row_M = self._merge.opened_merge(proposed_BSQ, proposed_BSQ.shape[1] * proposed_BSQ.shape[2]).row_BK[0]
        return row_M[row_M != NO_ITEM]

    def deepened(self, steps: Steps, depth: int) -> dict[str, np.ndarray]:
        """Item rows that each source would propose if it were asked for so many, best first."""
        users, stage = self._retrieve.users(steps.columns, np.array([0])), self._retrieve.opened_stage
        proposed = {source.name: source.propose(users, depth).row_BK[0] for source in stage.sources}
        return {name: row_Q[row_Q != NO_ITEM] for name, row_Q in proposed.items()}

    def _after(self, columns: Columns, clicks: Sequence[str]) -> Columns:
        """What would be read of the user after the clicks: by the very code that brings events into the store."""
        encoding, moment = self._encoding, max(int(columns["timestamp"][0]), self._encoding.as_of)
        rows = self._rows_of(clicks).tolist()
        events = [LiveEvent(moment + place, row, moment + place) for place, row in enumerate(rows)]

        def change(row: Mapping[str, Value]) -> dict[str, Value]:
            return changed_values(encoding, row, events)

        return self._fetch.run_as_if(columns, [*encoding.names, SEEN], change)

    def _rows_of(self, item_ids: Sequence[str]) -> np.ndarray:
        return self._forbid.opened_items.rows_of(np.array(item_ids, dtype=object))

    @cached_property
    def _encoding(self) -> Encoding:
        return Encoding(self._folder / STORE, self._folder / ITEMS)


def _cosine(one_D: np.ndarray, other_D: np.ndarray) -> float:
    return float(one_D @ other_D / max(np.linalg.norm(one_D) * np.linalg.norm(other_D), 1e-12))
