"""The configuration reference, made from the dataclasses and their docstrings."""

from __future__ import annotations

import json
import re
import typing
from typing import Any

from pydantic import TypeAdapter

from pipelines.config import keys_of


def shown_default(default: Any) -> str:
    """A default as it would stand in a TOML."""
    if default is ...:
        return "required"
    if default is None:
        return "not set"
    value = TypeAdapter(Any).dump_python(default, mode="json")
    return json.dumps(value, ensure_ascii=False)


def reference() -> str:
    """The reference as Markdown: a table a section."""
    lines = [
        "# Configuration",
        "",
        "A TOML file holds what differs from these defaults; `--section.key VALUE` on the command line overrides it.",
        "This page is generated from the code by `make docs`.",
    ]
    section = None
    for name, kind, default, text in keys_of():
        here, _, key = name.rpartition(".")
        if here != section:
            section = here
            lines += ["", f"## {f'[{here}]' if here else 'Top level'}", "", "| key | type | default | meaning |"]
            lines += ["|---|---|---|---|"]
        lines.append(f"| `{key}` | {_shown_type(kind)} | `{shown_default(default)}` | {text.replace('|', '&#124;')} |")
    return "\n".join(lines) + "\n"


def _shown_type(kind: Any) -> str:
    if typing.get_origin(kind) is typing.Annotated:
        inner, *notes = typing.get_args(kind)
        bounds = [bound for note in notes for bound in getattr(note, "metadata", [])]
        return " ".join([_shown_type(inner), *(_shown_bound(bound) for bound in bounds)])
    if typing.get_origin(kind) is typing.Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in typing.get_args(kind))
    text = re.sub(
        r"typing\.|Annotated\[(\w+).*?\]\)?\]", r"\1", str(kind) if typing.get_origin(kind) else kind.__name__
    )
    return text.replace("|", "or")


def _shown_bound(bound: Any) -> str:
    symbols = {"Gt": ">", "Ge": ">=", "Lt": "<", "Le": "<="}
    name = type(bound).__name__
    return f"{symbols[name]} {next(iter(vars(bound).values()))}" if name in symbols else ""
