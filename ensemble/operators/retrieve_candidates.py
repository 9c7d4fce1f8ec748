"""RetrieveCandidates: what every candidate source proposes to each user."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ensemble.deadline import seconds_left
from ensemble.guard import StageError, guard_of
from ensemble.item_filters import ATTRIBUTES, filters_of
from ensemble.operators.fetch_user_features import DEGRADED, FALLBACK
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.serving_metrics import metrics
from ensemble.user_threads import each_part, search_on_one_thread
from features.artifact import file_sha256
from retrieval.candidates import load_stage
from retrieval.index import load
from retrieval.item_rows import ItemRows
from retrieval.sources import CandidateSource, Users

# B users  S sources  Q proposals of a source  A users of a group
NO_ITEM = -1
Group = tuple[np.ndarray, int, Users]
"""Rows of users [A] who are searched as deep, that depth or 0 for the sources' own, and what is known of them."""


class RetrieveCandidates(RequestOperator):
    """Asks every source, leaving the forbidden items out of the search. Nobody proposes to users of whom nothing is
    known. A source that fails or is too slow proposes nothing and is counted; if all of them are, the users are
    `degraded`.

    Args:
        index: the index stage's folder.
        query_encoder: the retrieval stage's `query_encoder.onnx`, whose vectors the index must be made for.
        sources: the retrieval stage's `sources`.
        items: the etl stage's `items.parquet`.
        attributes: the items' raw attributes.
        num_candidates: candidates wanted, or k if that is more.
    """

    outputs = {  # noqa: RUF012
        "proposed_row": (np.int64, (None, None)),
        "num_failed_sources": (np.int64, ()),
        "wanted": (np.int64, ()),
        "source": (np.int64, ()),
    }

    def __init__(
        self, index: Path, query_encoder: Path, sources: Path, items: Path, attributes: Path, num_candidates: int
    ) -> None:
        files = {"index": index, "query_encoder.onnx": query_encoder, "sources": sources, "items.parquet": items}
        super().__init__(**files, **{ATTRIBUTES: attributes})
        self.num_candidates = num_candidates

    def run(self, columns: Columns) -> Columns:
        wanted_B = np.maximum(self.num_candidates, columns["k"])
        known_B = columns["source"] < FALLBACK
        groups = self._groups(columns, known_B)
        width = max(*self.opened_stage.quotas, *(depth for _, depth, _ in groups), 0)
        num_sources, deadline_B = len(self.opened_stage.sources), columns["deadline"]
        proposed_BSQ = np.full((len(wanted_B), num_sources, width), NO_ITEM, np.int64)
        num_failed = 0
        for place, guard in enumerate(self.opened_guards if groups else ()):
            try:
                proposed = guard.call(self._proposed, place, groups, within_seconds=seconds_left(deadline_B))
            except StageError:
                metrics.count("cascade_source_failures_total", source=self.opened_stage.names[place])
                num_failed += 1
                continue
            for rows, row_AQ in proposed:
                proposed_BSQ[rows, place, : row_AQ.shape[1]] = row_AQ
        is_helpless = num_failed == num_sources
        return {
            "proposed_row": proposed_BSQ,
            "num_failed_sources": np.where(known_B, num_failed, 0),
            "wanted": wanted_B,
            "source": np.where(known_B & is_helpless, DEGRADED, columns["source"]),
        }

    def _groups(self, columns: Columns, known_B: np.ndarray) -> list[Group]:
        """The known users, those who are searched as deep together."""
        # A power of two, and one search for each: how deep a user is searched does not depend on the others.
        k_B = columns["k"]
        depth_B = np.where(k_B > self.num_candidates, 2 ** np.ceil(np.log2(k_B)).astype(np.int64), 0)
        groups = []
        for depth in sorted({*depth_B[known_B].tolist()}):
            rows = np.flatnonzero(known_B & (depth_B == depth))
            groups.append((rows, depth, self.users(columns, rows)))
        return groups

    def _proposed(self, place: int, groups: list[Group]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Rows of users, and item rows [A, Q] that one source proposes to them."""
        stage = self.opened_stage
        asked = ((rows, users, stage.num_asked(place, depth)) for rows, depth, users in groups)
        return [(rows, _asked(stage.sources[place], users, k)) for rows, users, k in asked if k]

    def open(self, folder: Path) -> None:
        search_on_one_thread()
        items = pq.read_table(folder / "items.parquet", columns=["item_id", "num_events"])
        self.opened_filters = filters_of(folder, self.opened_config.filters)
        self.opened_rows = ItemRows(items["item_id"].to_numpy())
        self.opened_index = load(folder / "index", expected_model=file_sha256(folder / "query_encoder.onnx"))
        self.opened_stage = load_stage(folder / "sources", self.opened_index, items["num_events"].to_numpy())
        deadlines = self.opened_config.deadlines
        self.opened_guards = [
            guard_of(f"candidate source {name}", deadlines.candidates_ms, deadlines) for name in self.opened_stage.names
        ]

    def users(self, columns: Columns, asked: np.ndarray) -> Users:
        """Some of the users, as the sources are asked for them."""
        features = {name: columns[name][asked] for name in columns if name.startswith("user_")}
        return Users(
            features,
            self.opened_rows.of_ids(columns["history"][asked]),
            columns["forbidden_row"][asked],
            columns["query_vector"][asked],
            self.opened_filters.at(columns["filter_state"]).allowed_I,
        )


def _asked(source: CandidateSource, users: Users, k: int) -> np.ndarray:
    """Item rows [A, k] that a source proposes."""
    row_AQ = np.empty((len(users), k), np.int64)

    def propose(part: slice) -> None:
        row_AQ[part] = source.propose(users.some(part), k).row_BK

    each_part(len(users), propose)
    return row_AQ
