"""Docstrings as Sphinx reads them: what stands behind `Returns:`, `Raises:` and `Source:`, and `code` in backticks.

`Args:` is left to napoleon, which takes the others, and every attribute with a colon, for a type and its description.
"""

from __future__ import annotations

import re

from sphinx.application import Sphinx

_SECTION = re.compile(r"^(Returns|Yields|Raises|Source|Errors):(?= |$)")
_CODE = re.compile(r"(?<!`)`([^`]+)`(?!`)")
_BEFORE_NAPOLEON, _AFTER_NAPOLEON = 400, 600
_ATTRIBUTES = ("attribute", "property", "data")


def readable(lines: list[str]) -> list[str]:
    """The same docstring as reStructuredText."""
    made: list[str] = []
    inside = False
    for line in lines:
        found = _SECTION.match(line)
        inside = bool(found) or (inside and bool(line.strip()))
        if found:
            made += ["", f"**{found[1]}:**{line[found.end() :]}"]
        else:
            made.append(line.lstrip() if inside else line)
    return [re.sub(r"(?<=\w)_(?=\W|$)", r"\_", _CODE.sub(r"``\1``", line)) for line in made]


class _Attributes:
    """Keeps their docstrings from napoleon."""

    def __init__(self) -> None:
        self._lines: dict[str, list[str]] = {}

    def before(self, app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
        lines[:] = self._lines[name] = readable(lines)

    def after(self, app: Sphinx, what: str, name: str, thing: object, options: object, lines: list[str]) -> None:
        kept = self._lines.pop(name, lines)
        if what in _ATTRIBUTES:
            lines[:] = kept


def setup(app: Sphinx) -> dict[str, bool]:
    """Sphinx calls this."""
    attributes = _Attributes()
    app.connect("autodoc-process-docstring", attributes.before, priority=_BEFORE_NAPOLEON)
    app.connect("autodoc-process-docstring", attributes.after, priority=_AFTER_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
