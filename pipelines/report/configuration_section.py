"""The configuration: what differs from the defaults first, then every key."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.config import CascadeConfig, as_document
from pipelines.report.blocks import Folded, Note, Section, Table
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import NOTHING


def configuration_section(run: RunRecord) -> Section:
    """Keys of the run, with the defaults beside those that differ."""
    keys, default = flat(as_document(run.config)), flat(as_document(CascadeConfig()))
    differing = [key for key in keys if key not in default or keys[key] != default[key]]
    rows = [[key, shown(keys[key]), shown(default[key]) if key in default else NOTHING] for key in differing]
    every = Table("", ["key", "value"], [[key, shown(value)] for key, value in keys.items()])
    return Section(
        "Configuration",
        [
            Table("What differs from the defaults", ["key", "value", "default"], rows)
            if rows
            else Note("The defaults."),
            Folded(f"all {len(keys)} keys", [every]),
        ],
    )


def flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """Dotted key -> value; an empty table is a value."""
    return dict(_flat(document, ""))


def shown(value: Any) -> str:
    """As it would stand in a TOML."""
    return "not set" if value is None else json.dumps(value, ensure_ascii=False)


def _flat(document: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, Any]]:
    for name, value in document.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value
