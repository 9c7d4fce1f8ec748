"""The configuration of the small run, in the form in which the command line takes it; and the run served by rules."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest


@dataclass(frozen=True)
class SmallWorld:
    """Every key of the configuration of `small_run`."""

    keys: dict[str, str]

    def words(self, **more: str) -> list[str]:
        """Arguments for `cascade` or `load_config`; `more` by key, with "__" for the dots."""
        keys = self.keys | {name.replace("__", "."): value for name, value in more.items()}
        return [f"--{name.replace('_', '-')}={value}" for name, value in keys.items()]


@pytest.fixture(scope="session")
def small_world(small_run: Path) -> SmallWorld:
    return SmallWorld(dict(_flat(json.loads((small_run / "config.json").read_text()))))


@pytest.fixture
def run_served_as(small_run: Path, tmp_path: Path) -> Callable[..., Path]:
    """A function that copies the small run, with other values in [serving]."""

    def make(**serving: Any) -> Path:
        run = shutil.copytree(small_run, tmp_path / "run")
        document = json.loads((run / "config.json").read_text())
        (run / "config.json").write_text(json.dumps(document | {"serving": document["serving"] | serving}))
        return run

    return make


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", json.dumps(value)
