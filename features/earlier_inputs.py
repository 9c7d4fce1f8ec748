"""Whether an earlier model's weights can be read as a new one's: the same network, features and ids."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import asdict
from typing import Any

from features import vocabulary
from features.artifact import Artifact
from features.schema import load_schema

SCHEMA = "schema.json"
"""Part of an artifact with weights: the schema of the features that they read."""


def why_other_inputs(earlier: Artifact, etl: Artifact, network: Any, section: str, free: Collection[str]) -> str | None:
    """Why ids or inputs of an earlier model do not mean what they mean now; None if they do.

    Args:
        earlier: with SCHEMA and `vocabulary.FILE` among its parts.
        etl: the new features.
        network: the new model's config, a dataclass.
        section: where it stands in the configuration, e.g. "retrieval.two_tower".
        free: keys that leave the weights as they are.
    """
    was = earlier.manifest["config"].get(section.rpartition(".")[2], {})
    now = json.loads(json.dumps(asdict(network)))
    if changed := [key for key in now if key not in free and now[key] != was.get(key)]:
        return f"it has another {section}.{changed[0]}"
    columns = [load_schema(one.file(SCHEMA)).column_names for one in (earlier, etl)]
    if columns[0] != columns[1]:
        return f"it reads other features: {sorted(set(columns[0]) ^ set(columns[1])) or 'in another order'}"
    version = json.loads(earlier.file(vocabulary.FILE).read_text())
    if not vocabulary.has_grown_from(vocabulary.of_artifact(etl).columns, version):
        return "some of its ids mean something else now: its features were not those that were appended to"
    return None
