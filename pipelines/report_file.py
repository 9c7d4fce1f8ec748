"""Reports as JSON files."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any


def write_report(report: dict[str, Any], path: Path) -> dict[str, Any]:
    """Write a report under a temporary name, then rename it into place.

    Returns: the report as it was written: nan and infinity are null there, which JSON knows.
    """
    written = _jsonable(report)
    building = path.with_name(f".{path.name}.writing")
    building.write_text(json.dumps(written, indent=2, allow_nan=False) + "\n")
    os.replace(building, path)
    return written


def _jsonable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _jsonable(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [_jsonable(one) for one in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
