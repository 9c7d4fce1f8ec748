"""The configuration reference, made from the dataclasses and their docstrings."""

from __future__ import annotations

import json
import types
import typing
from typing import Any

from pydantic import TypeAdapter

from pipelines.config import keys_of, section_of

INTRODUCTION = """# Configuration

A TOML file holds what differs from these defaults; `--section.key VALUE` on the command line overrides the file, with
`-` or `_` in names. A value is written as in TOML, and plain text needs no quotes there. Mistakes are reported all at
once, each with its file and key. This page is made from the code by `make docs`.

`cascade init` writes a commented file for your own tables; `cascade keys` prints what stands below."""

REQUIRED, NOT_SET = "required", "not set"
_SYMBOLS = {"gt": ">", "ge": ">=", "lt": "<", "le": "<="}
_PLAIN = {str: "text", int: "integer", float: "number", bool: "true or false", types.NoneType: "not set"}


def shown_default(default: Any) -> str:
    """A default as it would stand in a TOML."""
    if default is ...:
        return REQUIRED
    if default is None:
        return NOT_SET
    value = TypeAdapter(Any).dump_python(default, mode="json")
    return json.dumps(value, ensure_ascii=False)


def reference() -> str:
    """The reference as Markdown: a table a section."""
    sections: dict[str, list[str]] = {"": []}
    for name, kind, default, text in keys_of():
        section, _, key = name.rpartition(".")
        shown = shown_default(default)
        cells = (f"`{key}`", shown_type(kind), shown if shown in (REQUIRED, NOT_SET) else f"`{shown}`", text)
        row = "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
        sections.setdefault(section, []).append(row)
    order = list(sections)
    lines = [INTRODUCTION]
    for section in sorted(order, key=lambda one: _place(one, order)):
        lines += ["", f"## {f'[{section}]' if section else 'Top level'}", "", _first_sentences(section_of(section)), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|", *sections[section]]
    return "\n".join(lines) + "\n"


def _place(section: str, order: list[str]) -> tuple[int, int]:
    """Sections in the order of the run, each before those inside it."""
    top = section.split(".")[0]
    return min(place for place, one in enumerate(order) if one.split(".")[0] == top), section.count(".")


def shown_type(kind: Any) -> str:
    """A key's type in words: integer > 0, list of text, "a" or "b"."""
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is typing.Annotated:
        inner, *notes = arguments
        bounds = [shown for note in notes for shown in _bounds(note)]
        return " ".join([shown_type(inner), ", ".join(bounds)]).strip()
    if origin is typing.Literal:
        return " or ".join(f"`{json.dumps(value)}`" for value in arguments)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(shown_type(one) for one in arguments if one is not types.NoneType)
    if origin is tuple:
        return f"list of {shown_type(arguments[0])}"
    if origin is dict:
        return f"table: {shown_type(arguments[0])} = {shown_type(arguments[1])}"
    return _PLAIN[kind]


def _bounds(note: Any) -> list[str]:
    """What a pydantic Field demands of a value. Lengths and patterns are left to the meaning and the message."""
    return [
        f"{symbol} {getattr(constraint, name)}"
        for constraint in getattr(note, "metadata", [])
        for name, symbol in _SYMBOLS.items()
        if hasattr(constraint, name)
    ]


def _first_sentences(section: type) -> str:
    """The first paragraph of a dataclass's docstring, on one line."""
    return " ".join((section.__doc__ or "").split("\n\n")[0].split())
