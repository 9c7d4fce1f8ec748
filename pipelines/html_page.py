"""HTML pages that stand alone: no scripts, nothing fetched, light and dark, for screen, phone and paper."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import matplotlib
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.figure import Figure

from features.profile import printable

TEXT, BAR, LINE = "#010203", "#010204", "#010205"
SERIES = ("#010211", "#010212", "#010213", "#010214", "#010215", "#010216")
"""Colors of curves side by side."""
_COLORS = {TEXT: "currentColor", BAR: "var(--bar)", LINE: "var(--line)"} | {
    drawn: f"var(--series-{place})" for place, drawn in enumerate(SERIES, 1)
}
"""Colors drawn -> the page's own, which know light and dark."""
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and has the page's font
    "svg.hashsalt": "cascade",  # the same ids, so the same bytes, on every run
    "font.size": 9,
    "text.color": TEXT,
    "xtick.color": TEXT,
    "ytick.color": TEXT,
    "axes.labelcolor": TEXT,
    "axes.edgecolor": TEXT,
    "axes.facecolor": "none",
    "text.parse_math": False,
}
_NO_METADATA = dict.fromkeys(("Date", "Creator", "Format", "Type"))


def rendered(template: str, filters: Mapping[str, Callable[..., str]], **context: Any) -> str:
    """The page of a template, named by its path from the folder of this file; figures drawn meanwhile get its style."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"printable": lambda value: printable(str(value))} | dict(filters)
    with drawing():
        return environment.get_template(template).render(**context)


def drawing() -> Any:
    """A context in which figures get the style of a page."""
    return matplotlib.rc_context(_STYLE)


def inline_svg(figure: Figure, label: str) -> Markup:
    """A figure drawn in the colors above, in the page's own; the label is what a screen reader says."""
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=_NO_METADATA)
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for drawn, shown in _COLORS.items():
        svg = svg.replace(drawn, shown)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1, flags=re.DOTALL)
    return Markup(svg.replace('role="img">', Markup('role="img" aria-label="{}">').format(printable(label)), 1))
