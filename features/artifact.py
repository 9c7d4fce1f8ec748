"""Artifacts: the folders that stages exchange, each sealed by a manifest that is written last."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatch
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from features.errors import CascadeError
from features.peak_memory import forget_peak, peak_bytes
from features.source_commit import source_commit

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
_VERSIONED_PACKAGES = (
    "cascade",
    "nvtabular",
    "merlin-models",
    "torch",
    "faiss-cpu",
    "onnxruntime",
    "numpy",
    "pyarrow",
    "polars",
)


class ArtifactError(CascadeError, ValueError):
    """An artifact is missing, damaged, or belongs to something else; the message names the file."""


@dataclass(frozen=True)
class Artifact:
    """A finished stage's folder with its manifest."""

    path: Path
    manifest: Mapping[str, Any]

    @property
    def stage(self) -> str:
        return self.manifest["stage"]

    @property
    def content_hash(self) -> str:
        """Hash of what the stage produced: equal for equal inputs, config and seed, on every rerun."""
        return self.manifest["content_hash"]

    @property
    def metrics(self) -> Mapping[str, Any]:
        return self.manifest["metrics"]

    def file(self, name: str) -> Path:
        """Path of one part.

        Raises: ArtifactError if the manifest does not list it.
        """
        if name not in self.manifest["parts"]:
            raise ArtifactError(f"{self.path}: the {self.stage} artifact has no part {name!r}; rerun the stage")
        return self.path / name

    def files(self, prefix: str) -> list[Path]:
        """Paths of the parts whose names begin so, in order.

        Raises: ArtifactError if there is none.
        """
        names = sorted(name for name in self.manifest["parts"] if name.startswith(prefix))
        if not names:
            raise ArtifactError(f"{self.path}: the {self.stage} artifact has no parts {prefix}*; rerun the stage")
        return [self.path / name for name in names]


def open_artifact(path: Path, stage: str, *, inputs: Sequence[Artifact] = ()) -> Artifact:
    """Open a finished artifact and check every byte of it.

    Args:
        path: the artifact's folder.
        stage: the stage that must have written it.
        inputs: artifacts it must have been made from; one of another run is refused.
    Raises: ArtifactError naming the file that is missing, damaged or foreign.
    """
    manifest_path = path / MANIFEST
    if not manifest_path.is_file():
        raise ArtifactError(
            f"{manifest_path} is missing: {path} is not a finished {stage} artifact; run `{stage}` first"
        )
    try:
        manifest = json.loads(manifest_path.read_text())
        written_by, format_version = manifest["stage"], manifest["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise _damaged(manifest_path, stage, error) from error
    if written_by != stage:
        raise ArtifactError(f"{manifest_path} was written by stage {written_by!r}, needed {stage!r}")
    if format_version != FORMAT_VERSION:
        raise ArtifactError(
            f"{manifest_path} has format version {format_version}, this Cascade reads {FORMAT_VERSION}; rerun `{stage}`"
        )
    try:
        is_unchanged = _content_hash(manifest) == manifest["content_hash"] and isinstance(manifest["metrics"], dict)
        _check_parts(path, stage, manifest["parts"])
    except (KeyError, TypeError, AttributeError) as error:
        raise _damaged(manifest_path, stage, error) from error
    if not is_unchanged:
        raise ArtifactError(f"{manifest_path} was changed by hand: its content hash does not match; rerun `{stage}`")
    for needed in inputs:
        came = manifest["inputs"].get(needed.stage)
        if came != needed.content_hash:
            raise ArtifactError(
                f"{manifest_path}: was made from another {needed.stage} artifact "
                f"({str(came)[:12]}, but {needed.path} is {needed.content_hash[:12]}); rerun `{stage}`"
            )
    return Artifact(path, manifest)


def is_current(path: Path, stage: str, config: Mapping[str, Any], seed: int, inputs: Mapping[str, str]) -> bool:
    """Whether a finished artifact exists for exactly this stage, config, seed and inputs.

    Its parts must stand there in their full size; `open_artifact` checks their bytes.
    """
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        parts = {path / name: part["bytes"] for name, part in manifest["parts"].items()}
        is_whole = all(file.is_file() and file.stat().st_size == num_bytes for file, num_bytes in parts.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False
    wanted = {"stage": stage, "format_version": FORMAT_VERSION, "config": config, "seed": seed, "inputs": inputs}
    return is_whole and all(manifest.get(key) == value for key, value in _as_read(wanted).items())


@dataclass
class ArtifactWriter:
    """What a stage fills while it runs: files under `path`, rows per part, metrics."""

    path: Path
    volatile: list[str] = field(default_factory=list)
    """Globs of parts whose bytes carry clocks (Merlin's pickles, Feast's registry): checked when they are
    opened, left out of the content hash."""
    metrics: dict[str, Any] = field(default_factory=dict)
    rows: dict[str, int] = field(default_factory=dict)


@contextmanager
def writing(
    path: Path, stage: str, config: Mapping[str, Any], seed: int, inputs: Mapping[str, str]
) -> Iterator[ArtifactWriter]:
    """Write an artifact under a temporary name, then rename it into place.

    Args:
        path: where the finished artifact will stand; an older one is replaced.
        inputs: content hashes of what the stage reads, by stage name or file.
    Nothing is left at `path` if the body raises or the process dies.
    """
    begun = time.monotonic()
    forget_peak()
    path.parent.mkdir(parents=True, exist_ok=True)
    building, replaced = (path.parent / f".{path.name}.{state}" for state in ("building", "replaced"))
    for stale in (building, replaced):
        shutil.rmtree(stale, ignore_errors=True)
    building.mkdir()
    writer = ArtifactWriter(building)
    try:
        yield writer
        manifest = {
            "stage": stage,
            "format_version": FORMAT_VERSION,
            "config": config,
            "seed": seed,
            "inputs": dict(inputs),
            "parts": _parts(writer),
            "metrics": writer.metrics,
            "versions": _package_versions(),
            "commit": source_commit(),
            "peak_memory_bytes": peak_bytes(),
            "seconds": round(time.monotonic() - begun, 3),
        }
        manifest = _as_read(manifest)
        manifest["content_hash"] = _content_hash(manifest)
        _write_durably(building / MANIFEST, json.dumps(manifest, indent=2, sort_keys=True) + "\n")
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    if path.exists():
        os.replace(path, replaced)
    os.replace(building, path)
    shutil.rmtree(replaced, ignore_errors=True)


def file_sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _parts(writer: ArtifactWriter) -> dict[str, dict[str, Any]]:
    parts = {}
    for file in sorted(p for p in writer.path.rglob("*") if p.is_file()):
        name = file.relative_to(writer.path).as_posix()
        part: dict[str, Any] = {"bytes": file.stat().st_size, "sha256": file_sha256(file)}
        if name in writer.rows:
            part["rows"] = writer.rows[name]
        if any(fnmatch(name, pattern) for pattern in writer.volatile):
            part["volatile"] = True
        parts[name] = part
    return parts


def _content_hash(manifest: Mapping[str, Any]) -> str:
    hashed = {key: manifest[key] for key in ("stage", "format_version", "config", "seed", "inputs")}
    hashed["parts"] = {name: part for name, part in manifest["parts"].items() if not part.get("volatile")}
    return hashlib.sha256(json.dumps(hashed, sort_keys=True).encode()).hexdigest()


def _as_read(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document as JSON gives it back: tuples are lists, keys are text."""
    return json.loads(json.dumps(document))


def _damaged(manifest_path: Path, stage: str, error: Exception) -> ArtifactError:
    return ArtifactError(f"{manifest_path} is damaged ({error!r}); delete {manifest_path.parent} and rerun `{stage}`")


def _check_parts(path: Path, stage: str, parts: Mapping[str, Mapping[str, Any]]) -> None:
    for name, part in parts.items():
        file = path / name
        if not file.is_file():
            raise ArtifactError(f"{file} is missing, though the {stage} manifest lists it; rerun `{stage}`")
        if file.stat().st_size != part["bytes"] or file_sha256(file) != part["sha256"]:
            raise ArtifactError(f"{file} is damaged: its bytes do not match the {stage} manifest; rerun `{stage}`")


def _package_versions() -> dict[str, str]:
    found = {}
    for package in _VERSIONED_PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _write_durably(path: Path, text: str) -> None:
    with path.open("w") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
