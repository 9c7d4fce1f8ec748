"""A file that appears whole or not at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from features.errors import CascadeError


class TargetError(CascadeError):
    """A file cannot be written where it should stand."""


@contextmanager
def replaced(target: Path) -> Iterator[Path]:
    """A hidden name beside `target` to write to; it takes the target's place when the body ends.

    An older file stays until then. If the body raises, nothing new is left; a process that is killed leaves the hidden
    file, and the next one writes over it.

    Raises: TargetError if the folder is not there or `target` is a folder; PermissionError.
    """
    if not target.parent.is_dir():
        raise TargetError(f"{target}: there is no folder {target.parent}; make it, or give another --out")
    if target.is_dir():
        raise TargetError(f"{target}: is a folder; give the name of a file")
    building = target.with_name(f".{target.name}.writing")
    building.touch()  # a folder that cannot be written to is an error before the work, not after it
    try:
        yield building
        os.replace(building, target)
    except BaseException:
        building.unlink(missing_ok=True)
        raise
