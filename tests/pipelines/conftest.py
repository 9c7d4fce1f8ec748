"""The configuration of the small run, in the form in which the command line takes it."""

from __future__ import annotations

import json
from collections.abc import Iterator
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


def _flat(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    for name, value in document.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{name}.")
        elif value is not None:
            yield f"{prefix}{name}", json.dumps(value)
