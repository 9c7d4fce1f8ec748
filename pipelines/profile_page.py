"""The data-quality profile for people: a page that stands alone in one HTML file, and a summary on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipelines.html_page import BAR, inline_svg, rendered
from pipelines.shown_values import count, moment, number, percent, short, text

TEMPLATE = "profile_page.html.j2"
MAX_TERMINAL_COLUMNS, MAX_TERMINAL_WARNINGS = 20, 8
SHOWN_VALUES = 8
_NAMES_OF_STEPS = {3600: "hour", 86_400: "day", 7 * 86_400: "week"}
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
    page = rendered(
        TEMPLATE,
        {"count": count, "percent": percent, "number": number, "moment": moment, "value": _value},
        tables={name: _table_context(table) for name, table in profile["tables"].items()},
        histogram=_histogram_svg,
        series=series_svg,
        shown=SHOWN_VALUES,
        step_name=step_name,
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
        reasons = ", ".join(f"{reason}: {count(rows)}" for reason, rows in table["quarantined"]["reasons"].items())
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
        yield f"{percent(column['nulls']['share'])} null"
    if known > 1 and column["cardinality"] == 1 and column["cardinality_exact"]:
        yield "constant: it says nothing"
    if column.get("infinite"):
        yield f"{count(column['infinite'])} infinite values"
    own = known > 100 and column["cardinality"] > 0.9 * known
    if own and column["kind"] == "category" and "rows_per_id" not in column:
        yield "nearly every row has a value of its own: an id, not a category?"
    if column["kind"] == "time" and column["min"] and column["min"] < "1990":
        yield f"starts in {column['min'][:4]}: is the unit right?"


def _part(part: Mapping[str, Any]) -> str:
    return f"{count(part['count'])} ({percent(part['share'])})"


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
        return _bars_svg(counts, at + 0.5, [short(edges[place] + 0.5) for place in at], (4.2, 1.5), label)
    return _bars_svg(counts, at, [short(edges[place], digits=3) for place in at], (4.2, 1.5), label)


def series_svg(series: Mapping[str, Any], label: str, narrow: bool) -> Markup:
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
        axes.bar(np.arange(len(counts)) + 0.5, counts, width=0.9, color=BAR)
    else:
        axes.stairs(counts, np.arange(len(counts) + 1), fill=True, color=BAR)
    margin = max(0, 6 - len(counts)) / 2
    axes.set_xlim(-margin, len(counts) + margin)
    axes.set_xticks(at.tolist(), list(names))
    axes.yaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: short(value, thousands=1e3)))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(length=2)
    return inline_svg(figure, label)


# --- the terminal ----------------------------------------------------------------------------------------------------


def _table_lines(name: str, table: Mapping[str, Any]) -> Iterator[str]:
    yield ""
    yield f"{text(name)}: {count(table['rows'])} rows, {len(table['columns'])} columns"
    time = table["columns"].get(table["time_column"])
    if time and time["min"]:
        yield f"  {moment(time['min'])} to {moment(time['max'])}  {_sparkline(time['series']['counts'])}"
    for column, profile in table["columns"].items():
        of = profile.get("rows_per_id")
        if of and of["max"] and of["max"] > 1:
            shares = f"the top 1 % has {percent(of['top_1_percent_share'])} of the rows, gini {of['gini']:.2f}"
            middle, most = of["quantiles"]["p50"], of["max"]
            yield f"  rows per {text(column)}: median {number(middle)}, at most {number(most)}; {shares}"
    warned = profile_warnings(table)
    for entry in warned[:MAX_TERMINAL_WARNINGS]:
        yield f"  ! {text(entry.column) + ': ' if entry.column else ''}{text(entry.text)}"
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
        cells = (text(name), kind, percent(column["nulls"]["share"]), distinct(column), values_line(column))
        shown.add_row(*(Text(cell) for cell in cells))
    return shown


def values_line(column: Mapping[str, Any]) -> str:
    """What a column holds, in one line: quantiles of numbers, ends of times, shares of the most frequent values."""
    if column["kind"] == "time":
        return f"{moment(column['min'])} to {moment(column['max'])}"
    if column["kind"] == "number":
        quantiles = [column["min"], *(column["quantiles"][name] for name in ("p5", "p50", "p95")), column["max"]]
        return f"{_sparkline(column['histogram']['counts'], 20):20}  {' | '.join(number(at) for at in quantiles)}"
    if column["kind"] == "list":
        length = column["length"]
        lengths = f"{number(length['min'])} to {number(length['max'])} values a row"
        return f"{lengths}: {values_line(column['elements'])}"
    known = column["rows"] - column["nulls"]["count"]
    top = [(_value(entry["value"]), percent(entry["count"] / known)) for entry in column["top"][:5]]
    return ", ".join(f"{value if len(value) <= 24 else value[:23] + '…'} {share}" for value, share in top)


def _sparkline(counts: Sequence[int], width: int = 40) -> str:
    """One character for each of at most `width` groups of neighbouring bins; an empty one is blank."""
    groups = [int(group.sum()) for group in np.array_split(np.asarray(counts), min(width, len(counts)) or 1)]
    most = max(groups, default=0) or 1
    return "".join(_BLOCKS[-(-group * len(_BLOCKS) // most) - 1] if group else " " for group in groups)


# --- words -----------------------------------------------------------------------------------------------------------


def _value(value: object) -> str:
    """A top value: text, or a number."""
    return number(value) if isinstance(value, float) else text(value)


def distinct(column: Mapping[str, Any]) -> str:
    """Number of distinct values; with ~ where it is estimated."""
    return f"{'' if column['cardinality_exact'] else '~'}{count(column['cardinality'])}"


def step_name(seconds: int) -> str:
    """What the bins of a series are."""
    return _NAMES_OF_STEPS.get(seconds) or f"{seconds // (7 * 86_400)} weeks"
