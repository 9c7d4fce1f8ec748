"""The search over the settings of one stage: its study, its files, and what it says."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from optuna.trial import FrozenTrial

from features.artifact import Artifact
from features.search_space import Dimension, space_around, value_of, with_values
from pipelines.config import CascadeConfig, as_document
from pipelines.replaced_file import replaced
from pipelines.toml_text import differences, toml_text
from pipelines.tune import (
    Budget,
    Direction,
    Fit,
    TuneError,
    finished,
    opened_study,
    ranked,
    search,
    space_document,
    values_of,
)
from pipelines.tune_report import print_best, trial_line, write_trials


@dataclass(frozen=True)
class TunedStage:
    """A stage whose settings are searched."""

    name: str
    """Of the stage, and of its section of the configuration, in which the keys of the space stand."""
    space: tuple[Dimension, ...]
    """What is tried; it is widened to hold the run's own settings."""
    inputs: tuple[Artifact, ...]
    """What every trial reads."""
    measure: str
    """Name of the score."""
    direction: Direction
    """Whether more or less of it is better."""

    def file(self, out: Path, ending: str) -> Path:
        """`.db` the study, `_best.toml` the best configuration, `_trials.csv` all trials."""
        return out / "tune" / f"{self.name}{ending}"


def tune_stage(
    stage: TunedStage, fit: Fit, config: CascadeConfig, out: Path, budget: Budget, say: Callable[[str], None]
) -> None:
    """Search until the budget is spent, then say what was best.

    Writes the study, and after every trial `<stage>_best.toml` and `<stage>_trials.csv`, into `<out>/tune/`. The first
    is the configuration with the best settings, for `cascade run --config`.

    Args:
        config: trial 0, and what the space does not name.
    Raises: TuneError if the inputs are those of another configuration, or no trial could be completed.
    """
    check_can_tune(stage.inputs, config, budget)
    settings = getattr(config, stage.name)
    space = space_around(settings, stage.space)
    identity = {"stage": stage.name} | {artifact.stage: artifact.content_hash for artifact in stage.inputs}
    identity |= {"config": as_document(settings), "seed": config.seed, "space": space_document(space)}
    with opened_study(stage.file(out, ".db"), identity, stage.direction) as study:

        def keep(trial: FrozenTrial | None = None) -> None:
            if trial:
                say(trial_line(trial, space, study))
            write_trials(study, space, stage.file(out, "_trials.csv"))
            if best := ranked(study):
                _write_best(stage, with_best(config, stage.name, values_of(best[0], space)), best[0], out)

        if before := len(finished(study)):
            say(f"goes on behind {before} trials in {stage.file(out, '.db')}")
        first = {dimension.key: value_of(settings, dimension.key) for dimension in space}
        search(study, space, first, fit, budget, config.seed, keep)
        keep()
        best = ranked(study)
        if not best:
            raise TuneError(f"no trial was completed yet; {stage.file(out, '_trials.csv')} says what became of each")
        print_best(study, space, stage.measure)
        changed = differences(with_best(config, stage.name, values_of(best[0], space))).get(stage.name, {})
        say(toml_text({stage.name: changed}))
        say(f"all trials: {stage.file(out, '_trials.csv')}")
        say(f"next: cascade run --config {stage.file(out, '_best.toml')} --out {out}")


def check_can_tune(inputs: tuple[Artifact, ...], config: CascadeConfig, budget: Budget) -> None:
    """Raises: TuneError if an input was made with another configuration, or there is nothing to do."""
    for artifact in inputs:
        if artifact.manifest["config"] != as_document(getattr(config, artifact.stage)):
            what = "features were" if artifact.stage == "etl" else f"{artifact.stage} artifact was"
            raise TuneError(
                f"{artifact.path}: the {what} made with another [{artifact.stage}] configuration than the one "
                f"given; give the --config that made it, or rerun `{artifact.stage}`"
            )
    if budget.num_trials < 1:
        raise TuneError(f"--trials must be at least 1, got {budget.num_trials}")


def with_best(config: CascadeConfig, stage: str, values: Mapping[str, Any]) -> CascadeConfig:
    """The configuration with a trial's settings of a stage."""
    return replace(config, **{stage: with_values(getattr(config, stage), values)})


def _write_best(stage: TunedStage, config: CascadeConfig, trial: FrozenTrial, out: Path) -> None:
    heading = (
        f"# The best of `cascade tune {stage.name}`: trial {trial.number}, validation {stage.measure} "
        f"{trial.value:.4f}\n"
    )
    with replaced(stage.file(out, "_best.toml")) as building:
        building.write_text(heading + toml_text(differences(config)), encoding="utf-8")
