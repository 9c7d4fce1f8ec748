"""The candidate stage of a run, in process, for `evaluate --stage candidates`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from ensemble.config import ServingConfig
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from features.artifact import open_artifact
from pipelines.config import CascadeConfig
from pipelines.evaluate_candidates import evaluate_candidates
from retrieval.merge import side_by_side
from retrieval.sources import NewItems, Proposals

# B users  S sources  K candidates
NO_ITEM = -1
MERGED = "merged"


def measure_candidates(run: Path, config: CascadeConfig) -> dict[str, Any]:
    """Measure what the exported pipeline of a run retrieves, before anything is ranked."""
    export = open_artifact(run / "export", "export")
    version_folder = export.path / "repository" / "cascade" / "1"
    candidates = Candidates(version_folder, config.evaluation.candidate_k, config.serving)
    return evaluate_candidates(
        run / "etl",
        candidates.propose,
        config.evaluation,
        config.etl.drop_seen,
        out=run,
        seed=config.seed,
        propose_cold=candidates.propose_new,
        about={"export_content_hash": export.content_hash},
    )


class Candidates:
    """Raw user ids -> raw item ids [B, K] of the merged stage and of each source alone.

    Args:
        version_folder: `<repository>/cascade/<version>` of an export.
        k: candidates K of each.
        config: what the pipeline is told when it opens.
    """

    def __init__(self, version_folder: Path, k: int, config: ServingConfig) -> None:
        self._pipeline, self._k = Pipeline.load(version_folder, config), k
        self._retrieve = next(one for one in self._pipeline.operators if isinstance(one, RetrieveCandidates))
        self._stage = self._retrieve.opened_stage
        items = pq.read_table(version_folder / "ensemble" / "items.parquet", columns=["raw_id", "num_events"])
        self._is_new_I = items["num_events"].to_numpy() == 0
        self._raw_id = np.array([*items["raw_id"].to_pylist(), ""], dtype=object)  # the last one stands for NO_ITEM

    def propose(self, user_ids: list[str]) -> dict[str, np.ndarray]:
        """As served."""
        columns = self._pipeline.columns(Request.of(user_ids))
        proposed_BSQ = columns["proposed_row"]
        rows = {name: proposed_BSQ[:, place] for place, name in enumerate(self._stage.names)}
        return self._named(rows | {MERGED: columns["candidate_row"]})

    def propose_new(self, user_ids: list[str]) -> dict[str, np.ndarray]:
        """As if the catalogue had only the items that nobody had so far."""
        columns = self._pipeline.columns(Request.of(user_ids))
        users = self._retrieve.users(columns, np.arange(len(user_ids)))
        index = self._retrieve.opened_index
        of_towers = NewItems.of(index, self._is_new_I).propose(users, self._k)
        others = [one.propose(users, len(index)) for one in self._stage.sources if one.name not in _OF_THE_INDEX]
        of_sources = iter([_kept(one, self._is_new_I) for one in others])
        proposals = [of_towers if name in _OF_THE_INDEX else next(of_sources) for name in self._stage.names]
        merged = self._stage.merge(side_by_side(proposals), self._k)
        return self._named({MERGED: merged.row_BK, "two_tower": of_towers.row_BK})

    def _named(self, rows: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {name: self._raw_id[row_BK[:, : self._k]] for name, row_BK in rows.items()}


_OF_THE_INDEX = ("two_tower", NewItems.name)


def _kept(proposals: Proposals, is_kept_I: np.ndarray) -> Proposals:
    """The proposals without the other items, closed up."""
    kept_BK = (proposals.row_BK != NO_ITEM) & is_kept_I[proposals.row_BK]
    order_BK = np.argsort(~kept_BK, axis=1, kind="stable")
    row_BK = np.where(kept_BK, proposals.row_BK, NO_ITEM)
    return Proposals(np.take_along_axis(row_BK, order_BK, 1), np.take_along_axis(proposals.score_BK, order_BK, 1))
