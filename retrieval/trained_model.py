"""One training of the two-tower model: from fresh weights or an earlier model's, to the averaged model."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import NamedTuple

import torch

from features.artifact import Artifact
from features.batches import FeatureTables
from features.checkpoint import Checkpoint, training_key
from retrieval.aged_state import aged_batches
from retrieval.config import RetrievalConfig
from retrieval.popularity import PopularityTimeline
from retrieval.training.learning_curve import LearningCurve
from retrieval.training.loop import Training
from retrieval.training.scored_items import ScoredItems
from retrieval.training.step_loss import StepLoss
from retrieval.training.trained_weights import TrainedWeights
from retrieval.training.warm_start import Start
from retrieval.two_tower import TwoTower
from retrieval.validation import UnseenIds, Validation


class Trained(NamedTuple):
    """What a training ends with."""

    model: TwoTower
    """Averaged, in eval mode."""
    sums: dict[str, torch.Tensor]
    """By table, row-wise Adagrad's sum of each row, [R]."""
    curve: LearningCurve


def train(
    config: RetrievalConfig,
    etl: Artifact,
    tables: FeatureTables,
    popularity: PopularityTimeline,
    examples: list[Path],
    seed: int,
    *,
    hidden: UnseenIds | None = None,
    validation: Validation | None = None,
    num_epochs: int | None = None,
    checkpoint: Checkpoint | None = None,
) -> tuple[TwoTower, LearningCurve]:
    """`trained` from scratch: the averaged model in eval mode, and what each epoch reached."""
    found = trained(
        config,
        etl,
        tables,
        popularity,
        examples,
        seed,
        hidden=hidden,
        validation=validation,
        num_epochs=num_epochs,
        checkpoint=checkpoint,
    )
    return found.model, found.curve


def trained(
    config: RetrievalConfig,
    etl: Artifact,
    tables: FeatureTables,
    popularity: PopularityTimeline,
    examples: list[Path],
    seed: int,
    *,
    hidden: UnseenIds | None = None,
    validation: Validation | None = None,
    num_epochs: int | None = None,
    checkpoint: Checkpoint | None = None,
    start: Start | None = None,
) -> Trained:
    """Train from scratch, or from a checkpoint of the same training; equal arguments give an equal model.

    Args:
        examples: parquet files of the etl stage.
        hidden: ids that the train part does not have, shown to the model as unseen.
        validation: stops training when its recall stops growing; None trains all epochs.
        num_epochs: instead of the config's max_epochs.
        checkpoint: where the training stands is kept there; it must be given for one training only.
        start: what to begin with instead of fresh weights.
    Raises: DivergedError; WarmStartError.
    """
    num_epochs = num_epochs or config.max_epochs
    torch.manual_seed(seed)
    batches = aged_batches(etl, tables, examples, config.batch_size, seed)
    model = TwoTower(tables.schema, config.two_tower)
    first = next(batches.in_order())
    model.queries(first)
    model.items(first)  # Merlin's layers take their shapes from the first batch
    if start:
        start.put_into(model)
    scored_items = ScoredItems(batches.column("item_row"), etl.metrics["num_items"], config.num_scored_items)
    loss = StepLoss(model, tables, scored_items, popularity, hidden, config)
    key = training_key(asdict(config), etl.content_hash, seed, num_epochs, *(start.key if start else ()))
    weights = TrainedWeights(model, config)
    if start:
        start.take_sums(weights)
    training = Training(config, batches, loss, weights, validation, num_epochs, checkpoint, key)
    return Trained(training.run(), weights.row_sums, training.curve)


def untrained(tables: FeatureTables, config: RetrievalConfig) -> TwoTower:
    """A model with fresh weights, whose layers have their shapes."""
    model = TwoTower(tables.schema, config.two_tower)
    model.queries({name: column[:1] for name, column in tables.users.items()})
    model.items({name: column[:1] for name, column in tables.items.items()})
    return model
