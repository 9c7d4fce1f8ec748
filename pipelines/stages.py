"""The stages in their order, and running them: what is unchanged is skipped, what broke off is resumed."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from features.artifact import Artifact, ArtifactWriter, file_sha256, is_current, open_artifact, writing
from pipelines.config import CascadeConfig, as_document, save_config

CONFIG_FILE = "config.json"
Inputs = dict[str, Artifact]


@dataclass(frozen=True)
class Stage:
    """One step from logs to a served model."""

    name: str
    inputs: tuple[str, ...]
    """Stages whose artifacts it reads."""
    run: Callable[[CascadeConfig, Inputs, ArtifactWriter], None]


def _etl(config: CascadeConfig, inputs: Inputs, writer: ArtifactWriter) -> None:
    from features import etl
    from features.logs import read_logs

    etl.run(config.etl, read_logs(config.data), writer)


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


def run_stages(
    config: CascadeConfig, out: Path, only: str | None = None, say: Callable[[str], None] = print
) -> dict[str, Artifact]:
    """Run all stages, or one, into `<out>/<stage>`.

    A stage whose config, seed and inputs are those of its finished artifact is skipped. A run that was killed goes on
    at the first stage without a manifest, and ends with the same artifacts.

    Raises: ArtifactError if an artifact that a stage needs is missing, damaged or foreign; LogError, ValueError.
    """
    save_config(config, out / CONFIG_FILE)
    done: dict[str, Artifact] = {}
    for stage in STAGES:
        if only is None or stage.name == only:
            inputs = {name: done.get(name) or _opened(name, out) for name in stage.inputs}
            done[stage.name] = _run(stage, config, inputs, out / stage.name, say)
    return done


def _opened(name: str, out: Path) -> Artifact:
    stage = STAGES[STAGE_NAMES.index(name)]
    return open_artifact(out / name, name, inputs=[_opened(before, out) for before in stage.inputs])


def _run(stage: Stage, config: CascadeConfig, inputs: Inputs, path: Path, say: Callable[[str], None]) -> Artifact:
    own = as_document(getattr(config, stage.name))
    hashes = {name: artifact.content_hash for name, artifact in inputs.items()}
    if stage.name == "etl":
        hashes = _data_hashes(config)
    if is_current(path, stage.name, own, config.seed, hashes):
        say(f"{stage.name:<10} unchanged, skipped")
        return open_artifact(path, stage.name)
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

        hashes |= {file.path.name: file_sha256(file.path) for file in raw_files(config.data.tables)}
    return hashes


def _summary(metrics: Any) -> str:
    plain = {name: value for name, value in metrics.items() if isinstance(value, int | float | str)}
    return ", ".join(
        f"{name} {value:.4g}" if isinstance(value, float) else f"{name} {value}" for name, value in plain.items()
    )
