"""Where a training stands, on disk: one that was killed goes on and ends with the same model, bit for bit.

One safetensors file: the tensors, and in its metadata a JSON document with the plain values and a key that says which
training it belongs to. It is written under another name and renamed, so it is whole or not there.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

FORMAT_VERSION = 1


def training_key(*parts: Any) -> str:
    """Equal for trainings that end with the same model.

    Args:
        parts: JSON values: the settings, the hash of the data, the seed, and whatever else the result depends on.
    """
    document = [FORMAT_VERSION, torch.__version__, *parts]
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()


@dataclass
class Progress:
    """How far a training has come."""

    epoch: int = 0
    """Finished epochs."""
    step: int = 0
    """Finished steps of the one that runs."""
    curve: list[dict[str, float]] = field(default_factory=list)
    """What each finished epoch reached."""


class Checkpoint:
    """The file of one training.

    Args:
        path: of the file; its folder is made when it is first written.
        minutes: between two saves within an epoch.
        say: gets a line when a checkpoint is taken up or passed over, or cannot be written.
    """

    def __init__(self, path: Path, minutes: float, say: Callable[[str], None]) -> None:
        self._path, self._seconds, self._say = path, 60 * minutes, say
        self._saved_at = time.monotonic()

    @property
    def is_due(self) -> bool:
        return time.monotonic() - self._saved_at >= self._seconds

    def save(self, key: str, progress: Progress, tensors: Mapping[str, torch.Tensor]) -> None:
        """Replace the file; tensors may share memory.

        Where it cannot be written, the last one stays, and a line says so.
        """
        building = self._path.with_suffix(".building")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            save_file(_apart(tensors), building, metadata={"key": key, "progress": json.dumps(asdict(progress))})
            _sync(building)
            os.replace(building, self._path)
        except (SafetensorError, OSError) as error:
            building.unlink(missing_ok=True)
            last = "the last one stays" if self._path.is_file() else "there is none yet"
            self._say(
                f"{self._path}: the checkpoint cannot be written ({error}), {last}; training goes on, and a run that "
                "is killed repeats what came after it; make room on the disk"
            )
        self._saved_at = time.monotonic()

    def load(self, key: str) -> tuple[Progress, dict[str, torch.Tensor]] | None:
        """What was saved for this key; None, and a line that says why, if there is only something else."""
        if not self._path.is_file():
            return None
        try:
            with safe_open(self._path, framework="pt") as stored:
                metadata: dict[str, Any] = stored.metadata()
                if metadata["key"] != key:
                    self._say(f"{self._path}: is of another configuration, seed or data; training begins anew")
                    return None
                progress = Progress(**json.loads(metadata["progress"]))
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 (no dict)
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            self._say(f"{self._path}: cannot be read ({error!r}); training begins anew")
            return None
        self._say(f"{self._path}: training goes on after epoch {progress.epoch}, step {progress.step}")
        return progress, tensors


def below(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors named `prefix.NAME`, by NAME."""
    return {name[len(prefix) + 1 :]: value for name, value in tensors.items() if name.startswith(f"{prefix}.")}


def under(prefix: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors under the names `prefix.NAME`."""
    return {f"{prefix}.{name}": value for name, value in tensors.items()}


def _apart(tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """No two of them in the same memory, as safetensors wants it; a large table is not copied without need."""
    seen: set[int] = set()

    def own(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_alone = tensor.is_contiguous() and storage.data_ptr() not in seen and storage.nbytes() == tensor.nbytes
        seen.add(storage.data_ptr())
        return tensor.detach() if is_alone else tensor.detach().contiguous().clone()

    return {name: own(tensor) for name, tensor in tensors.items()}


def _sync(path: Path) -> None:
    with path.open("rb+") as file:
        os.fsync(file.fileno())
