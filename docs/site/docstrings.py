"""Docstrings as napoleon and reStructuredText read them: `Returns: text` on one line becomes a section."""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"^(Returns|Yields|Raises|Source|Errors): (?=\S)")
_BEFORE_NAPOLEON = 400


def as_sections(lines: list[str]) -> list[str]:
    """The same docstring, with what follows `Returns:` and its like, to the end of the paragraph, indented below it."""
    made: list[str] = []
    inside = False
    for line in lines:
        if found := _SECTION.match(line):
            inside = True
            made += ["", f"{found[1]}:", f"    {_error(found[1], line[found.end() :])}"]
        elif inside and line.strip() and not line.endswith(":"):
            made.append(f"    {line}")
        else:
            inside = False
            made.append(line)
    return made


def _error(section: str, text: str) -> str:
    """`ValueError if ...` as napoleon wants it: `ValueError: if ...`."""
    return re.sub(r"^(\w+) (?=if |where )", r"\1: ", text) if section == "Raises" else text


def _process(app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
    lines[:] = [
        re.sub(r"(?<=\w)_(?=\W|$)", r"\_", re.sub(r"(?<!`)`([^`]+)`(?!`)", r"``\1``", line))
        for line in as_sections(lines)
    ]


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    app.connect("autodoc-process-docstring", _process, priority=_BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
