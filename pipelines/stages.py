"""The stages in their order, and running them: what is unchanged is skipped, what broke off is resumed."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from features.artifact import (
    MANIFEST,
    Artifact,
    ArtifactError,
    ArtifactWriter,
    is_current,
    open_artifact,
    writing,
)
from features.errors import CascadeError
from features.learned_from import METRIC, learned_before, lessons, take_over
from features.store.config import ROW_FORM
from pipelines import etl_stage
from pipelines.config import CascadeConfig, as_document, save_config

CONFIG_FILE = "config.json"
Inputs = dict[str, Artifact]


@dataclass(frozen=True)
class Stage:
    """One step from logs to a served model."""

    name: str
    inputs: tuple[str, ...]
    """Stages whose artifacts it reads."""
    run: Callable[[CascadeConfig, Inputs, ArtifactWriter, Run], None]
    forms: Mapping[str, str] = field(default_factory=dict)
    """Forms of what it writes, by name. A stage whose artifact is of other ones runs again."""


@dataclass(frozen=True)
class Run:
    """One call of `run_stages`."""

    out: Path
    cluster: str
    """Where the etl stage's tasks run, as `open_cluster` takes it."""
    say: Callable[[str], None]


def _etl(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter, run: Run) -> None:
    etl_stage.run(config, writer, run.out / "etl", run.cluster, run.say)


def _retrieval(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter, run: Run) -> None:
    from retrieval import train

    checkpoints = run.out / ".retrieval.checkpoints"
    train.run(config.retrieval, inputs["etl"], config.seed, writer, checkpoints, run.say, run.out / "retrieval")


def _index(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter, run: Run) -> None:
    from retrieval import index

    index.run(config.index, inputs["retrieval"], config.seed, writer)


def _ranking(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter, run: Run) -> None:
    from ranking import train
    from ranking.compact import compact_candidates

    etl, retrieval, ranking = inputs["etl"], inputs["retrieval"], as_document(config.ranking)
    learned_from = lessons(etl, (retrieval, train.READ_OF_RETRIEVAL))
    if same := learned_before(run.out / "ranking", "ranking", ranking, config.seed, learned_from):
        run.say("ranking    only the moment of serving changed: the ranker is taken over")
        take_over(same, list(same.manifest["parts"]), writer)
        writer.metrics |= dict(same.metrics)
        return
    train.run(config.ranking, etl, retrieval, config.seed, writer)
    writer.metrics[METRIC] = learned_from
    lists = writer.path / "examples" / "all.parquet"
    compact_candidates(config.ranking.compact, etl, lists, config.seed, writer)


def _export(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter, run: Run) -> None:
    from ensemble import export

    export.run(config.export, inputs["etl"], inputs["retrieval"], inputs["index"], inputs["ranking"], writer)


STAGES = (
    Stage("etl", (), _etl),
    Stage("retrieval", ("etl",), _retrieval),
    Stage("index", ("retrieval",), _index),
    Stage("ranking", ("etl", "retrieval"), _ranking),
    Stage("export", ("etl", "retrieval", "index", "ranking"), _export, {"store_rows": str(ROW_FORM)}),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def _click_ranking(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter, run: Run) -> None:
    from ranking.clicks import train as click_train
    from ranking.compact import compact_clicks

    checkpoints = run.out / ".ranking.checkpoints"
    click_train.run(config.ranking, inputs["etl"], config.seed, writer, checkpoints, run.say, run.out / "ranking")
    compact_clicks(config.ranking.compact, inputs["etl"], config.seed, writer)
    shutil.rmtree(checkpoints, ignore_errors=True)


IMPRESSION_STAGES = (Stage("etl", (), _etl), Stage("ranking", ("etl",), _click_ranking))
NO_USERS = "does not apply: impressions have no users and items to propose, only clicks to foretell"


class StageError(CascadeError):
    """The stage does not exist for these logs."""


def stages_of(config: CascadeConfig) -> tuple[Stage, ...]:
    """The stages that the logs call for."""
    return IMPRESSION_STAGES if config.data.holds_impressions else STAGES


def print_now(line: str) -> None:
    print(line, flush=True)  # also where the output goes to a file or a pipe


def run_stages(
    config: CascadeConfig,
    out: Path,
    only: str | None = None,
    say: Callable[[str], None] = print_now,
    cluster: str = "threads",
) -> dict[str, Artifact]:
    """Run all stages, or one, into `<out>/<stage>`.

    A stage whose config, seed, inputs and forms are those of its finished artifact is skipped; one whose artifact is
    damaged runs again. A run that was killed goes on at the first stage without a manifest, and ends with the same
    artifacts.

    Args:
        only: the one stage to run, from the artifacts of the stages before it.
        say: gets a line when a stage begins, ends or is skipped.
        cluster: where the etl stage's tasks run, as `features.cluster.open_cluster` takes it; the result is the same.
    Returns: the artifacts by stage, also those that were only read.
    Raises: ArtifactError if an artifact that a stage needs is missing, damaged, foreign or made with another
        configuration; LogError, SplitError; StageError if the one stage does not apply to the logs.
    """
    stages = {stage.name: stage for stage in stages_of(config)}
    if only is not None and only not in stages:
        raise StageError(f"the stage {only} {NO_USERS}")
    opened: dict[str, Artifact] = {}
    for name in STAGE_NAMES:
        if only is not None and name != only:
            continue
        if name not in stages:
            say(f"{name:<10} {NO_USERS}")
            continue
        inputs = {one: _opened(one, config, out, opened) for one in stages[name].inputs}
        save_config(config, out / CONFIG_FILE)
        opened[name] = _run(stages[name], config, inputs, Run(out, cluster, say))
    return opened


def _opened(name: str, config: CascadeConfig, out: Path, opened: dict[str, Artifact]) -> Artifact:
    """The finished artifact of a stage, read once; `opened` grows by it and by those it was made from."""
    if name not in opened:
        stage = next(stage for stage in stages_of(config) if stage.name == name)
        before = [_opened(one, config, out, opened) for one in stage.inputs]
        artifact = open_artifact(out / name, name, inputs=before)
        given = as_document(getattr(config, name)), config.seed
        if (artifact.manifest["config"], artifact.manifest["seed"]) != given:
            raise ArtifactError(
                f"{artifact.path / MANIFEST}: was made with another [{name}] configuration or seed than the one given; "
                f"give the --config that made it, or rerun `{name}`"
            )
        opened[name] = artifact
    return opened[name]


def _run(stage: Stage, config: CascadeConfig, inputs: Inputs, run: Run) -> Artifact:
    path, say = run.out / stage.name, run.say
    own = as_document(getattr(config, stage.name))
    hashes = {name: artifact.content_hash for name, artifact in inputs.items()}
    if stage.name == "etl":
        hashes = etl_stage.data_hashes(config)
    hashes |= stage.forms
    if is_current(path, stage.name, own, config.seed, hashes):
        try:
            artifact = open_artifact(path, stage.name)
        except ArtifactError as error:
            say(f"{stage.name:<10} {error}")
        else:
            say(f"{stage.name:<10} unchanged, skipped")
            return artifact
    say(f"{stage.name:<10} running")
    begun = time.monotonic()
    with writing(path, stage.name, own, config.seed, hashes) as writer:
        stage.run(config, inputs, writer, run)
    artifact = open_artifact(path, stage.name)
    say(f"{stage.name:<10} done in {time.monotonic() - begun:.1f} s   {_summary(artifact.metrics)}")
    return artifact


def _summary(metrics: Any) -> str:
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )
