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
from retrieval.sources import Users

# B users  S sources  Q proposals of a source
NO_ITEM = -1


class RetrieveCandidates(RequestOperator):
    """Asks every source, leaving the forbidden items out of the search. Nobody proposes to users of whom nothing is
    known. A source that fails proposes nothing and is counted. If all of them together are too slow,
    nobody proposes, and the users are `degraded`.

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
        source_B = columns["source"]
        try:
            proposed_BSQ, num_failed_B = self.opened_guard.call(
                self._proposed, columns, wanted_B, within_seconds=seconds_left(columns["deadline"])
            )
        except StageError:
            num_sources = len(self.opened_stage.sources)
            proposed_BSQ = np.full((len(wanted_B), num_sources, 0), NO_ITEM, np.int64)
            num_failed_B = np.where(source_B < FALLBACK, num_sources, 0)
            source_B = np.where(source_B < FALLBACK, DEGRADED, source_B)
        return {
            "proposed_row": proposed_BSQ,
            "num_failed_sources": num_failed_B,
            "wanted": wanted_B,
            "source": source_B,
        }

    def _proposed(self, columns: Columns, wanted_B: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Item rows [B, sources, Q], and the number of sources that failed [B]."""
        # A power of two, and one search for each: how deep a user is searched does not depend on the others.
        depth_B = np.where(columns["k"] > self.num_candidates, 2 ** np.ceil(np.log2(wanted_B)).astype(np.int64), 0)
        known_B = columns["source"] < FALLBACK
        width = max(*self.opened_stage.quotas, int(depth_B.max(initial=0)))
        proposed_BSQ = np.full((len(wanted_B), len(self.opened_stage.sources), width), NO_ITEM, np.int64)
        num_failed_B = np.zeros(len(wanted_B), np.int64)

        def propose(part: slice) -> None:
            for depth in np.unique(depth_B[part][known_B[part]]):
                asked = part.start + np.flatnonzero(known_B[part] & (depth_B[part] == depth))
                proposals, failed = self.opened_stage.propose(self.users(columns, asked), int(depth))
                num_failed_B[asked] = len(failed)
                for name in failed:
                    metrics.count("cascade_source_failures_total", source=name)
                for source, one in enumerate(proposals):
                    proposed_BSQ[asked, source, : one.row_BK.shape[1]] = one.row_BK

        each_part(len(wanted_B), propose)
        return proposed_BSQ, num_failed_B

    def open(self, folder: Path) -> None:
        search_on_one_thread()
        items = pq.read_table(folder / "items.parquet", columns=["item_id", "num_events"])
        self.opened_filters = filters_of(folder, self.opened_config.filters)
        self.opened_rows = ItemRows(items["item_id"].to_numpy())
        self.opened_index = load(folder / "index", expected_model=file_sha256(folder / "query_encoder.onnx"))
        self.opened_stage = load_stage(folder / "sources", self.opened_index, items["num_events"].to_numpy())
        deadlines = self.opened_config.deadlines
        self.opened_guard = guard_of("candidates", deadlines.candidates_ms, deadlines)

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
