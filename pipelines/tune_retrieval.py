"""`cascade tune retrieval`: the candidate model's settings with the highest validation recall.

Every trial trains on the train part of the run's features and is judged on its validation part, as the stage itself
judges its epochs. The test part is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import torch
from optuna.trial import FrozenTrial

from features.artifact import Artifact
from features.batches import FeatureTables
from pipelines.config import CascadeConfig, as_document
from pipelines.replaced_file import replaced
from pipelines.toml_text import differences, toml_text
from pipelines.tune import (
    Budget,
    Fit,
    OnEpoch,
    TuneError,
    finished,
    opened_study,
    ranked,
    search,
    space_document,
    values_of,
)
from pipelines.tune_report import print_best, trial_line, write_trials
from retrieval.popularity import PopularityTimeline
from retrieval.search_space import space_around, value_of, with_values
from retrieval.train import train
from retrieval.two_tower import TwoTower
from retrieval.validation import UnseenIds, Validation

STUDY, BEST, TRIALS = "retrieval.db", "retrieval_best.toml", "retrieval_trials.csv"


def tune_retrieval(config: CascadeConfig, etl: Artifact, out: Path, budget: Budget, say: Callable[[str], None]) -> None:
    """Search until the budget is spent, then say what was best.

    Writes STUDY, and after every trial BEST and TRIALS, into `<out>/tune/`. BEST is the configuration with the best
    settings, for `cascade run --config`.

    Args:
        config: trial 0, and what the space does not name.
        etl: the run's features.
    Raises: TuneError if the features are those of another configuration, or no trial could be completed.
    """
    if etl.manifest["config"] != as_document(config.etl):
        raise TuneError(
            f"{etl.path}: the features were made with another [etl] configuration than the one given; "
            "give the --config that made them, or rerun `etl`"
        )
    if budget.num_trials < 1:
        raise TuneError(f"--trials must be at least 1, got {budget.num_trials}")
    folder, space = out / "tune", space_around(config.retrieval)
    identity = {
        "stage": "retrieval",
        "etl": etl.content_hash,
        "config": as_document(config.retrieval),
        "seed": config.seed,
        "space": space_document(space),
    }
    with opened_study(folder / STUDY, identity) as study:

        def keep(trial: FrozenTrial | None = None) -> None:
            if trial:
                say(trial_line(trial, space, study))
            write_trials(study, space, folder / TRIALS)
            if best := ranked(study):
                _write_best(with_best(config, values_of(best[0], space)), best[0], folder / BEST)

        if before := len(finished(study)):
            say(f"goes on behind {before} trials in {folder / STUDY}")
        first = {dimension.key: value_of(config.retrieval, dimension.key) for dimension in space}
        search(study, space, first, validation_recall(config, etl), budget, config.seed, keep)
        keep()
        _conclude(config, study, space, folder, say)


def with_best(config: CascadeConfig, values: Mapping[str, Any]) -> CascadeConfig:
    """The configuration with the retrieval settings of a trial."""
    return replace(config, retrieval=with_values(config.retrieval, values))


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


def _conclude(config: CascadeConfig, study: optuna.Study, space, folder: Path, say: Callable[[str], None]) -> None:
    best = ranked(study)
    if not best:
        raise TuneError(f"no trial was completed yet; {folder / TRIALS} says what became of each")
    print_best(study, space, f"recall@{config.retrieval.recall_at}")
    changed = differences(with_best(config, values_of(best[0], space))).get("retrieval", {})
    say(toml_text({"retrieval": changed}))
    say(f"all trials: {folder / TRIALS}")
    say(f"next: cascade run --config {folder / BEST} --out {folder.parent}")


def _write_best(config: CascadeConfig, trial: FrozenTrial, path: Path) -> None:
    heading = (
        f"# The best of `cascade tune retrieval`: trial {trial.number}, validation recall@{config.retrieval.recall_at} "
        f"{trial.value:.4f}\n"
    )
    with replaced(path) as building:
        building.write_text(heading + toml_text(differences(config)), encoding="utf-8")
