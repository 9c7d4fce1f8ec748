"""The data-quality profile for people: a page that stands alone in one HTML file, and a summary on the terminal."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from features.profile import printable

TEMPLATE = "profile_page.html.j2"
MAX_TERMINAL_COLUMNS, MAX_TERMINAL_WARNINGS = 20, 8
SHOWN_VALUES = 8
_NAMES_OF_STEPS = {3600: "hour", 86_400: "day", 7 * 86_400: "week"}
_COLORS = {"#010203": "currentColor", "#010204": "var(--bar)"}
"""Colors drawn -> the page's own, which know light and dark."""
_TEXT, _BAR = _COLORS
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text: it can be searched, and has the page's font
    "svg.hashsalt": "cascade",  # the same ids, so the same bytes, on every run
    "font.size": 9,
    "text.color": _TEXT,
    "xtick.color": _TEXT,
    "ytick.color": _TEXT,
    "axes.edgecolor": _TEXT,
    "axes.facecolor": "none",
    "text.parse_math": False,
}
_BLOCKS = "▁▂▃▄▅▆▇█"


@dataclass(frozen=True)
class Warned:
    """Something in a table that a person should look at."""

    column: str
    """"" if the whole table is meant."""
    text: str


def write_profile_page(profile: Mapping[str, Any], path: Path) -> None:
    """Write the page: no scripts, nothing fetched, light and dark, for screen, phone and paper.

    Args:
        profile: what `features.profile.profile_tables` returns.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "count": _count,
        "percent": _percent,
        "number": _number,
        "printable": _text,
        "moment": _moment,
        "value": _value,
    }
    tables = {name: _table_context(table) for name, table in profile["tables"].items()}
    with matplotlib.rc_context(_STYLE):
        page = environment.get_template(TEMPLATE).render(
            tables=tables, histogram=_histogram_svg, series=_series_svg, shown=SHOWN_VALUES, step_name=_step_name
        )
    path.write_text(page, encoding="utf-8")


def print_profile(profile: Mapping[str, Any], console: Console | None = None) -> None:
    """Print a table a table, at most about 40 lines each.

    Args:
        console: where to; standard output by default, 120 columns wide when that is no terminal.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
    for name, table in profile["tables"].items():
        for line in _table_lines(name, table):
            console.print(Text(line), no_wrap=True, overflow="ellipsis")
        console.print(_columns_table(table))
        if (more := len(table["columns"]) - MAX_TERMINAL_COLUMNS) > 0:
            console.print(f"... and more on the page: {more} of {len(table['columns'])} columns")


def profile_warnings(table: Mapping[str, Any]) -> list[Warned]:
    """What to look at in one table of a profile: its rows first, then column by column."""
    warned = [Warned("", text) for text in _row_warnings(table)]
    for name, column in table["columns"].items():
        warned += [Warned(name, text) for text in _column_warnings(column)]
    return warned


def _row_warnings(table: Mapping[str, Any]) -> Iterator[str]:
    if table["rows"] == 0:
        yield "the table is empty"
    if table["quarantined"]["count"]:
        reasons = ", ".join(f"{reason}: {_count(rows)}" for reason, rows in table["quarantined"]["reasons"].items())
        yield f"rows that could not be read: {_part(table['quarantined'])}; {reasons}"
    if table["duplicate_rows"]["count"]:
        yield f"rows equal to another in every column: {_part(table['duplicate_rows'])}"
    keys = table["duplicate_keys"]
    if keys and keys["count"] > table["duplicate_rows"]["count"]:
        yield f"rows equal to another in {', '.join(keys['columns'])}: {_part(keys)}"


def _column_warnings(column: Mapping[str, Any]) -> Iterator[str]:
    known = column["rows"] - column["nulls"]["count"]
    if column["rows"] and not known:
        yield "all null"
    elif column["nulls"]["share"] > 0.5:
        yield f"{_percent(column['nulls']['share'])} null"
    if known > 1 and column["cardinality"] == 1 and column["cardinality_exact"]:
        yield "constant: it says nothing"
    if column.get("infinite"):
        yield f"{_count(column['infinite'])} infinite values"
    own = known > 100 and column["cardinality"] > 0.9 * known
    if own and column["kind"] == "category" and "rows_per_id" not in column:
        yield "nearly every row has a value of its own: an id, not a category?"
    if column["kind"] == "time" and column["min"] and column["min"] < "1990":
        yield f"starts in {column['min'][:4]}: is the unit right?"


def _part(part: Mapping[str, Any]) -> str:
    return f"{_count(part['count'])} ({_percent(part['share'])})"


# --- the page --------------------------------------------------------------------------------------------------------


def _table_context(table: Mapping[str, Any]) -> dict[str, Any]:
    warned = profile_warnings(table)
    return {
        "profile": table,
        "warnings": warned,
        "of_column": {name: [entry.text for entry in warned if entry.column == name] for name in table["columns"]},
    }


def _histogram_svg(histogram: Mapping[str, Any], label: str) -> Markup:
    """Bars of equal width, with the edges written below some of them: linear and asinh bins read alike."""
    edges, counts = histogram["edges"], histogram["counts"]
    if not counts:
        return Markup("")
    whole = all(edge % 1 == 0.5 for edge in edges)
    at = np.unique(np.linspace(0, len(counts) - whole, min(6 if whole else 5, len(counts) + 1)).round().astype(int))
    if whole:  # a bar holds whole numbers: its first stands below its middle
        return _bars_svg(counts, at + 0.5, [_short(edges[place] + 0.5) for place in at], (4.2, 1.5), label)
    return _bars_svg(counts, at, [_short(edges[place], digits=3) for place in at], (4.2, 1.5), label)


def _series_svg(series: Mapping[str, Any], label: str, narrow: bool) -> Markup:
    """Rows over time, once for a wide and once for a narrow screen: text that shrinks cannot be read."""
    counts = series["counts"]
    if not counts:
        return Markup("")
    at = np.unique(np.linspace(0, len(counts) - 1, 3 if narrow else 6).round().astype(int))
    moments = np.datetime64(series["start"], "s") + at * np.timedelta64(series["step_seconds"], "s")
    length = 16 if series["step_seconds"] < 86_400 else 10
    names = [str(moment)[:length].replace("T", " ") for moment in moments]
    return _bars_svg(counts, at + 0.5, names, (4.2, 1.5) if narrow else (8.3, 2.0), label)


def _bars_svg(counts: Sequence[int], at: np.ndarray, names: Sequence[str], inches: tuple, label: str) -> Markup:
    """Bars as inline SVG in the page's colors; the label is what a screen reader says."""
    figure = Figure(figsize=inches, layout="constrained")
    axes: Axes = figure.subplots()
    if len(counts) <= 40:
        axes.bar(np.arange(len(counts)) + 0.5, counts, width=0.9, color=_BAR)
    else:
        axes.stairs(counts, np.arange(len(counts) + 1), fill=True, color=_BAR)
    margin = max(0, 6 - len(counts)) / 2
    axes.set_xlim(-margin, len(counts) + margin)
    axes.set_xticks(at.tolist(), list(names))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _short(value, thousands=1e3)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=2)
    out = io.StringIO()
    figure.savefig(out, format="svg", transparent=True, metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = out.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for drawn, shown in _COLORS.items():
        svg = svg.replace(drawn, shown)
    svg = re.sub(r'<svg [^>]*?viewBox="([^"]*)"[^>]*>', r'<svg viewBox="\1" role="img">', svg, count=1, flags=re.DOTALL)
    return Markup(svg.replace('role="img">', Markup('role="img" aria-label="{}">').format(_text(label)), 1))


# --- the terminal ----------------------------------------------------------------------------------------------------


def _table_lines(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{_text(name)}: {_count(table['rows'])} rows, {len(table['columns'])} columns"
    time = table["columns"].get(table["time_column"])
    if time and time["min"]:
        yield f"  {_moment(time['min'])} to {_moment(time['max'])}  {_sparkline(time['series']['counts'])}"
    for column, profile in table["columns"].items():
        of = profile.get("rows_per_id")
        if of and of["max"] and of["max"] > 1:
            shares = f"the top 1 % has {_percent(of['top_1_percent_share'])} of the rows, gini {of['gini']:.2f}"
            middle, most = of["quantiles"]["p50"], of["max"]
            yield f"  rows per {_text(column)}: median {_number(middle)}, at most {_number(most)}; {shares}"
    warned = profile_warnings(table)
    for entry in warned[:MAX_TERMINAL_WARNINGS]:
        yield f"  ! {_text(entry.column) + ': ' if entry.column else ''}{_text(entry.text)}"
    if len(warned) > MAX_TERMINAL_WARNINGS:
        yield f"  ! and {len(warned) - MAX_TERMINAL_WARNINGS} more warnings, on the page"


def _columns_table(table: Mapping[str, Any]) -> Table:
    shown = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, expand=True)
    shown.add_column("column", no_wrap=True, max_width=28)
    shown.add_column("kind", no_wrap=True)
    shown.add_column("nulls", justify="right", no_wrap=True)
    shown.add_column("distinct", justify="right", no_wrap=True)
    shown.add_column("values", no_wrap=True, ratio=1)
    for name, column in list(table["columns"].items())[:MAX_TERMINAL_COLUMNS]:
        kind = "id" if "rows_per_id" in column else column["kind"]
        cells = (_text(name), kind, _percent(column["nulls"]["share"]), _distinct(column), _values_line(column))
        shown.add_row(*(Text(cell) for cell in cells))
    return shown


def _values_line(column: Mapping[str, Any]) -> str:
    if column["kind"] == "time":
        return f"{_moment(column['min'])} to {_moment(column['max'])}"
    if column["kind"] == "number":
        quantiles = [column["min"], *(column["quantiles"][name] for name in ("p5", "p50", "p95")), column["max"]]
        return f"{_sparkline(column['histogram']['counts'], 20):20}  {' | '.join(_number(at) for at in quantiles)}"
    if column["kind"] == "list":
        length = column["length"]
        lengths = f"{_number(length['min'])} to {_number(length['max'])} values a row"
        return f"{lengths}: {_values_line(column['elements'])}"
    known = column["rows"] - column["nulls"]["count"]
    top = [(_value(entry["value"]), _percent(entry["count"] / known)) for entry in column["top"][:5]]
    return ", ".join(f"{value if len(value) <= 24 else value[:23] + '…'} {share}" for value, share in top)


def _sparkline(counts: Sequence[int], width: int = 40) -> str:
    """One character for each of at most `width` groups of neighbouring bins; an empty one is blank."""
    groups = [int(group.sum()) for group in np.array_split(np.asarray(counts), min(width, len(counts)) or 1)]
    most = max(groups, default=0) or 1
    return "".join(_BLOCKS[-(-group * len(_BLOCKS) // most) - 1] if group else " " for group in groups)


# --- words -----------------------------------------------------------------------------------------------------------


def _text(value: object) -> str:
    return printable(str(value))


def _count(value: int) -> str:
    return f"{value:,}"


def _percent(share: float) -> str:
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.3g} %"


def _number(value: float | None) -> str:
    """Whole numbers up to seven digits as they are, else as `_short`."""
    if value is None:
        return "–"
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e7 else _short(value)


def _short(value: float, digits: int = 4, thousands: float = 1e4) -> str:
    """A few digits, with k (from `thousands` on), M, G, T for what is large."""
    for bound, unit, name in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (thousands, 1e3, "k")):
        if bound <= abs(value) < 1e15:
            return f"{value / unit:.{digits}g}{name}"
    return f"{value:.{digits}g}"


def _value(value: object) -> str:
    """A top value: text, or a number."""
    return _number(value) if isinstance(value, float) else _text(value)


def _moment(text: str | None) -> str:
    """A time of a profile, without a midnight that says nothing."""
    return "–" if text is None else text.removesuffix("T00:00:00").replace("T", " ")


def _distinct(column: Mapping[str, Any]) -> str:
    return f"{'' if column['cardinality_exact'] else '~'}{_count(column['cardinality'])}"


def _step_name(seconds: int) -> str:
    return _NAMES_OF_STEPS.get(seconds) or f"{seconds // (7 * 86_400)} weeks"
