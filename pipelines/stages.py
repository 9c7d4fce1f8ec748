"""The stages in their order, and running them: what is unchanged is skipped, what broke off is resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.artifact import (
    MANIFEST,
    Artifact,
    ArtifactError,
    ArtifactWriter,
    file_sha256,
    is_current,
    open_artifact,
    writing,
)
from pipelines.config import CascadeConfig, as_document, save_config

CONFIG_FILE = "config.json"
QUARANTINE_FILE = "quarantine.parquet"
"""Stands in the run folder only while the etl stage refuses the logs for it; else the etl artifact holds it."""
Inputs = dict[str, Artifact]


@dataclass(frozen=True)
class Stage:
    """One step from logs to a served model."""

    name: str
    inputs: tuple[str, ...]
    """Stages whose artifacts it reads."""
    run: Callable[[CascadeConfig, Inputs, ArtifactWriter], None]


def _etl(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter) -> None:
    import pyarrow.parquet as pq

    from features import etl
    from features.logs import LogError, QuarantineError, read_logs

    refused = writer.path.parent / QUARANTINE_FILE
    refused.unlink(missing_ok=True)
    try:
        logs = read_logs(config.data)
    except QuarantineError as error:
        pq.write_table(error.quarantine, refused)
        raise LogError(f"{error}. Every such row stands in {refused}, with its file, line and reason") from error
    etl.run(config.etl, logs, writer)


def _retrieval(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter) -> None:
    from retrieval import train

    train.run(config.retrieval, inputs["etl"], config.seed, writer)


def _index(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter) -> None:
    from retrieval import index

    index.run(config.index, inputs["retrieval"], config.seed, writer)


def _ranking(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter) -> None:
    from ranking import train

    train.run(config.ranking, inputs["etl"], inputs["retrieval"], config.seed, writer)


def _export(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter) -> None:
    from ensemble import export

    export.run(config.export, inputs["etl"], inputs["retrieval"], inputs["index"], inputs["ranking"], writer)


STAGES = (
    Stage("etl", (), _etl),
    Stage("retrieval", ("etl",), _retrieval),
    Stage("index", ("retrieval",), _index),
    Stage("ranking", ("etl", "retrieval"), _ranking),
    Stage("export", ("etl", "retrieval", "index", "ranking"), _export),
)
STAGE_NAMES = tuple(stage.name for stage in STAGES)


def print_now(line: str) -> None:
    print(line, flush=True)  # also where the output goes to a file or a pipe


def run_stages(
    config: CascadeConfig, out: Path, only: str | None = None, say: Callable[[str], None] = print_now
) -> dict[str, Artifact]:
    """Run all stages, or one, into `<out>/<stage>`.

    A stage whose config, seed and inputs are those of its finished artifact is skipped; one whose artifact is damaged
    runs again. A run that was killed goes on at the first stage without a manifest, and ends with the same artifacts.

    Args:
        only: the one stage to run, from the artifacts of the stages before it.
        say: gets a line when a stage begins, ends or is skipped.
    Returns: the artifacts by stage, also those that were only read.
    Raises: ArtifactError if an artifact that a stage needs is missing, damaged, foreign or made with another
        configuration; LogError, SplitError.
    """
    opened: dict[str, Artifact] = {}
    for stage in STAGES:
        if only is None or stage.name == only:
            inputs = {name: _opened(name, config, out, opened) for name in stage.inputs}
            save_config(config, out / CONFIG_FILE)
            opened[stage.name] = _run(stage, config, inputs, out / stage.name, say)
    return opened


def _opened(name: str, config: CascadeConfig, out: Path, opened: dict[str, Artifact]) -> Artifact:
    """The finished artifact of a stage, read once; `opened` grows by it and by those it was made from."""
    if name not in opened:
        stage = STAGES[STAGE_NAMES.index(name)]
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


def _run(stage: Stage, config: CascadeConfig, inputs: Inputs, path: Path, say: Callable[[str], None]) -> Artifact:
    own = as_document(getattr(config, stage.name))
    hashes = {name: artifact.content_hash for name, artifact in inputs.items()}
    if stage.name == "etl":
        hashes = _data_hashes(config)
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
        stage.run(config, inputs, writer)
    artifact = open_artifact(path, stage.name)
    say(f"{stage.name:<10} done in {time.monotonic() - begun:.1f} s   {_summary(artifact.metrics)}")
    return artifact


def _data_hashes(config: CascadeConfig) -> dict[str, str]:
    """What the etl stage reads: how the data is described, and every byte of every file."""
    described = json.dumps(as_document(config.data), sort_keys=True)
    hashes = {"data": hashlib.sha256(described.encode()).hexdigest()}
    if config.data.adapter == "tables" and config.data.tables is not None:
        from features.logs.tables import raw_files

        files = enumerate(raw_files(config.data.tables))  # numbered: two tables' files may have the same name
        hashes |= {f"{number} {file.path.name}": file_sha256(file.path) for number, file in files}
    return hashes


def _summary(metrics: Any) -> str:
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )
