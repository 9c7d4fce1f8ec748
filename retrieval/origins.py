"""Moments at which the candidate stage is asked for lists as it will be when serving: the ranker's training ground.

At each of them every part of the stage knows only what came before. The ranker learns from what it proposed and what
was taken in the period after (a rolling origin).

Source: Tashman, "Out-of-sample tests of forecasting accuracy: an analysis and review", Int. J. Forecasting 2000.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.artifact import Artifact
from features.batches import FeatureTables
from retrieval.candidates import CandidateStage
from retrieval.config import IndexConfig, SourcesConfig
from retrieval.fit_sources import refit, stage_of
from retrieval.index import build
from retrieval.popularity import PopularityTimeline
from retrieval.sources import Past
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds

# I items  E width of the vectors
MIN_SHARE = 0.2
"""An origin with less of the train part before it is left out: its stage would know too little."""


@dataclass(frozen=True, eq=False)
class Origin:
    """The candidate stage of a moment."""

    moment: int
    """Unix seconds; nothing here has seen what came then or later."""
    until: int
    """Where the period ends that is foretold."""
    model: TwoTower
    stage: CandidateStage
    item_IE: np.ndarray
    """The vectors that the stage searches."""
    hidden: UnseenIds


def earlier_moments(etl: Artifact, num_origins: int) -> list[int]:
    """The moments before the start of the validation part, the latest first, each the validation part's length before
    the next; fewer than num_origins - 1 where the log does not reach back so far."""
    begin, period = etl.metrics["valid_from"], etl.metrics["test_from"] - etl.metrics["valid_from"]
    timestamp = pq.read_table(etl.file("events.parquet"), columns=["timestamp"])["timestamp"].to_numpy()
    least = MIN_SHARE * np.searchsorted(timestamp, begin)
    moments = [begin - number * period for number in range(1, num_origins)]
    return [moment for moment in moments if np.searchsorted(timestamp, moment) >= least]


def examples_before(moment: int, etl: Artifact, folder: Path) -> list[Path]:
    """The train part's examples before a moment, as parquet files in the folder."""
    written = []
    for path in etl.files("examples/train/"):
        table = pq.read_table(path)
        table = table.filter(pc.less(table["timestamp"], moment))
        if len(table):
            written.append(folder / path.name)
            pq.write_table(table, written[-1])
    return written


def stage_before(
    moment: int,
    until: int,
    model: TwoTower,
    stage: CandidateStage,
    past: Past,
    tables: FeatureTables,
    popularity: PopularityTimeline,
    hidden: UnseenIds,
    config: SourcesConfig,
) -> Origin:
    """The stage as it would have been at an earlier moment, with the settings and weights of a later one.

    Args:
        model: trained on what came before the moment.
        past: of the whole log.
    """
    past = past.before(moment)
    item_IE = item_vectors(model, hidden(tables.items), popularity.at(moment))
    earlier = stage_of(config, build(item_IE, IndexConfig(kind="flat")), past, refit(stage, past))
    return Origin(moment, until, model, replace(earlier, merge=stage.merge), item_IE, hidden)
