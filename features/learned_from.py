"""What models learn from, apart from the moment up to which serving knows the users (`etl.serve_state`).

Training reads examples and what was known at earlier moments, never the state at that moment. So where nothing but
`serve_state` changed, models are the same, and the stages take them over: what was measured is what goes live.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from features.artifact import MANIFEST, Artifact, ArtifactError, ArtifactWriter, open_artifact

METRIC = "learned_from"
"""Of an artifact with models: `lessons` of the features they were trained on."""
_OF_THE_MOMENT = ("users.parquet", "items.parquet")


def lessons(etl: Artifact, *others: tuple[Artifact, Sequence[str]]) -> dict[str, str]:
    """Hash of an etl artifact without the state of users and items at the moment up to which serving knows them.

    Args:
        others: artifacts of other stages that training reads, with the names of the parts that it reads.
    """
    config = {name: value for name, value in etl.manifest["config"].items() if name != "serve_state"}
    parts = {
        name: part["sha256"]
        for name, part in etl.manifest["parts"].items()
        if name not in _OF_THE_MOMENT and not part.get("volatile")
    }
    read = [{name: artifact.manifest["parts"][name]["sha256"] for name in names} for artifact, names in others]
    document = [config, etl.manifest["seed"], etl.manifest["inputs"], parts, read]
    return {"sha256": hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()}


def learned_before(path: Path, stage: str, config: Any, seed: int, learned_from: dict[str, str]) -> Artifact | None:
    """The finished artifact whose models are those that would be trained now; None if there is none."""
    if not (path / MANIFEST).is_file():
        return None
    try:
        artifact = open_artifact(path, stage)
    except ArtifactError:
        return None
    made_with = artifact.manifest["config"], artifact.manifest["seed"], artifact.metrics.get(METRIC)
    return artifact if made_with == (json.loads(json.dumps(config)), seed, learned_from) else None


def take_over(earlier: Artifact, names: Sequence[str], writer: ArtifactWriter) -> None:
    """Put parts of a finished artifact into the one that is being written."""
    for name in names:
        part = earlier.manifest["parts"][name]
        (writer.path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(earlier.file(name), writer.path / name)
        if "rows" in part:
            writer.rows[name] = part["rows"]
        if part.get("volatile"):
            writer.volatile.append(name)
