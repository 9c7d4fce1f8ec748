"""`cascade tune retrieval`: the candidate model's settings with the highest validation recall.

Every trial trains on the train part of the run's features and is judged on its validation part, as the stage itself
judges its epochs. The test part is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from features.artifact import Artifact
from features.batches import FeatureTables
from features.search_space import with_values
from pipelines.config import CascadeConfig
from pipelines.tune import Budget, Fit, OnEpoch
from pipelines.tune_stage import TunedStage, check_can_tune, tune_stage
from retrieval.popularity import PopularityTimeline
from retrieval.search_space import SPACE
from retrieval.train import train
from retrieval.two_tower import TwoTower
from retrieval.validation import UnseenIds, Validation


def tune_retrieval(config: CascadeConfig, etl: Artifact, out: Path, budget: Budget, say: Callable[[str], None]) -> None:
    """As `tune_stage`, for the two-tower model.

    Args:
        etl: the run's features.
    """
    check_can_tune((etl,), config, budget)
    stage = TunedStage("retrieval", SPACE, (etl,), f"recall@{config.retrieval.recall_at}", "maximize")
    tune_stage(stage, validation_recall(config, etl), config, out, budget, say)


def validation_recall(config: CascadeConfig, etl: Artifact) -> Fit:
    """Trains with given settings and returns the validation recall of the best epoch."""
    torch.set_num_threads(config.retrieval.num_threads)
    tables, popularity, hidden = FeatureTables(etl), PopularityTimeline(etl), UnseenIds(etl)
    max_users = config.retrieval.sources.max_users
    validation = WatchedValidation(etl, tables, popularity, hidden, config.retrieval.recall_at, max_users, config.seed)
    examples = etl.files("examples/train/")

    def fit(values: Mapping[str, Any], on_epoch: OnEpoch) -> float:
        settings = with_values(config.retrieval, values)
        validation.watch(on_epoch)
        _, curve = train(settings, etl, tables, popularity, examples, config.seed, hidden=hidden, validation=validation)
        return max(record["recall"] for record in curve.epochs)

    return fit


class WatchedValidation(Validation):
    """Tells every recall that a training measures, so that one without a chance can be stopped from there."""

    def watch(self, on_epoch: OnEpoch) -> None:
        """Begin to count a training's epochs, from 1."""
        self._on_epoch, self._epoch = on_epoch, 0

    def recall(self, model: TwoTower) -> float:
        recall = super().recall(model)
        self._epoch += 1
        self._on_epoch(self._epoch, recall)
        return recall
