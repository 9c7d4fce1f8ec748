"""A configuration as TOML: what differs from the defaults."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from pipelines.config import CascadeConfig, as_document

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")


def differences(config: CascadeConfig) -> dict[str, Any]:
    """The part of a configuration that `load_config` needs to give it back: without the defaults."""
    return _differing(as_document(config), as_document(CascadeConfig()))


def toml_text(document: Mapping[str, Any], section: str = "") -> str:
    """A document of texts, numbers, lists and tables as TOML; an entry that is None is left out, as TOML has none."""
    plain = {key: value for key, value in document.items() if not isinstance(value, Mapping) and value is not None}
    lines = [f"{_key(key)} = {_value(value)}" for key, value in plain.items()]
    blocks = ["\n".join([f"[{section}]"] * bool(section) + lines) + "\n"] if lines else []
    for key, value in document.items():
        if isinstance(value, Mapping):
            name = f"{section}.{_key(key)}" if section else _key(key)
            blocks.append(toml_text(value, name) or f"[{name}]\n")  # an empty table is there, not left out
    return "\n".join(blocks)


def _differing(document: Mapping[str, Any], default: Any) -> dict[str, Any]:
    there = default if isinstance(default, Mapping) else {}
    return {
        key: _differing(value, there.get(key)) if isinstance(value, Mapping) else value
        for key, value in document.items()
        if key not in there or value != there[key]
    }


def _key(key: str) -> str:
    return key if _BARE_KEY.fullmatch(key) else _value(key)


def _value(value: Any) -> str:
    """JSON's texts, numbers and lists are TOML's, but for the one control character that JSON leaves as it is."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{_key(key)} = {_value(one)}" for key, one in value.items() if one is not None) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
