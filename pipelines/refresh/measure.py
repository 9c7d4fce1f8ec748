"""Everything the guards judge by, measured once: `refresh.json` keeps it, and other limits judge it as it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from features.artifact import open_artifact
from pipelines.config import CascadeConfig, as_document
from pipelines.etl_stage import DRIFT
from pipelines.stages import stages_of

_SCORES = "the ranker of candidates orders by scores, which are no probabilities"
_NO_SLATES = "impressions have no slates"


def measured(run: Path, out: Path, config: CascadeConfig, known: dict[str, Any]) -> dict[str, Any]:
    """What `judged` takes, and under `key` what it is of.

    Args:
        known: what was measured before; it is returned if it is of the same artifacts and settings.
    """
    key = _key(run, out, config)
    if known.get("key") == key:
        return known
    etl = open_artifact(out / "etl", "etl")
    drift = json.loads(etl.file(DRIFT).read_text()) if DRIFT in etl.manifest["parts"] else None
    found: dict[str, Any] = {"key": key, "drift": drift, "unmeasured": {}}
    if drift is None:
        found["unmeasured"]["drift"] = (
            "the logs were read all at once, so the new ones were not compared with the others"
        )
    if config.data.holds_impressions:
        from pipelines.refresh.compared_clicks import compared_clicks

        unmeasured = found["unmeasured"] | {"coverage": _NO_SLATES, "latency": _NO_SLATES}
        found |= compared_clicks(run, out, config)
        found["unmeasured"] = unmeasured | found["unmeasured"]
        return found
    from pipelines.refresh.compared_slates import compared_slates

    found |= compared_slates(run, out, config)
    if reason := found.pop("not_measured", None):
        found["unmeasured"] |= dict.fromkeys(("quality", "coverage", "latency"), reason)
    found["unmeasured"]["calibration"] = _SCORES
    return found


def _key(run: Path, out: Path, config: CascadeConfig) -> list[Any]:
    last = stages_of(config)[-1].name
    hashes = [open_artifact(one / last, last).content_hash for one in (run, out)]
    return [*hashes, as_document(config.evaluation), as_document(config.serving), config.refresh.num_latency_requests]
