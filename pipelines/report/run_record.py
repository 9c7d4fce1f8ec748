"""What a run folder holds, read for its report: configuration, manifests, curves, measurements."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from features.artifact import MANIFEST
from features.errors import CascadeError
from pipelines.config import CascadeConfig, load_saved_config
from pipelines.etl_stage import PROFILE
from pipelines.stages import CONFIG_FILE, stages_of


class ReportError(CascadeError, ValueError):
    """There is nothing to report on, or what should be compared cannot be."""


@dataclass(frozen=True)
class RunRecord:
    """A run as its files tell it; their hashes are not checked, which for large logs takes minutes."""

    folder: Path
    config: CascadeConfig
    manifests: Mapping[str, Mapping[str, Any]]
    """Of the finished stages, in their order."""

    @classmethod
    def read(cls, folder: Path) -> RunRecord:
        """Raises: ReportError if the folder is no run, or no stage is finished; ConfigError."""
        if not (folder / CONFIG_FILE).is_file():
            raise ReportError(f"{folder}: there is no such run; `cascade run --out {folder}` makes one")
        config = load_saved_config(folder / CONFIG_FILE)
        files = {stage.name: folder / stage.name / MANIFEST for stage in stages_of(config)}
        manifests = {stage: _read(file) for stage, file in files.items() if file.is_file()}
        if "etl" not in manifests:
            raise ReportError(f"{folder}: no stage is finished; `cascade run --out {folder}` goes on with it")
        return cls(folder, config, manifests)

    @property
    def name(self) -> str:
        return self.folder.resolve().name

    @property
    def holds_impressions(self) -> bool:
        return self.config.data.holds_impressions

    @property
    def unfinished(self) -> list[str]:
        return [stage.name for stage in stages_of(self.config) if stage.name not in self.manifests]

    @cached_property
    def profile(self) -> Mapping[str, Any]:
        return _read(self.folder / "etl" / PROFILE)

    @cached_property
    def evaluation(self) -> Mapping[str, Any] | None:
        """What `cascade evaluate` measured."""
        return _read_if_there(self.folder / "evaluation.json")

    @cached_property
    def candidates(self) -> Mapping[str, Any] | None:
        """What `cascade evaluate --stage candidates` measured."""
        return _read_if_there(self.folder / "candidates.json")

    def metrics(self, stage: str) -> Mapping[str, Any]:
        """Of a finished stage; none of one that is not."""
        return self.manifests[stage]["metrics"] if stage in self.manifests else {}

    def learning_curve(self, stage: str) -> list[dict[str, Any]]:
        file = self.folder / stage / "learning_curve.json"
        return _read(file) if stage in self.manifests and file.is_file() else []

    def mismatches(self) -> Iterator[str]:
        """What was made or measured from another artifact than the one that is there now."""
        there = {stage: manifest["content_hash"] for stage, manifest in self.manifests.items()}
        for stage, manifest in self.manifests.items():
            for needed, came in manifest["inputs"].items():
                if needed in there and came != there[needed]:
                    yield f"{stage} was made from another {needed} artifact than this run's: `cascade {stage}` again"
        measured = {"": self.evaluation, " --stage candidates": self.candidates}
        for option, report in measured.items():
            if report is not None and "export" in there and "export_content_hash" not in report["protocol"]:
                yield f"`cascade evaluate{option}` did not yet note which export it measured"
            for stage in there:
                came = None if report is None else report["protocol"].get(f"{stage}_content_hash")
                if came is not None and came != there[stage]:
                    yield f"quality was measured with another {stage} artifact: `cascade evaluate{option}` again"


def _read(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ReportError(f"{file}: is damaged ({error}); run again what writes it") from error


def _read_if_there(file: Path) -> Any:
    return _read(file) if file.is_file() else None
