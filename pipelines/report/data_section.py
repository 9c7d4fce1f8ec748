"""What the logs hold: the profile in short, and how the split parts them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.profile_page import distinct, profile_warnings, series_svg, step_name, values_line
from pipelines.report.blocks import Block, Facts, Folded, Note, Plot, Section, Table, Warnings
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import NOTHING, count, moment, percent


def data_section(run: RunRecord) -> Section:
    """The tables, rows over time, warnings, and a line a column."""
    tables = run.profile["tables"]
    split = _split(run)
    blocks: list[Block] = [
        Table(
            "",
            ["table", "rows", "columns", "unreadable", "repeated", "from", "to"],
            [_row(*one) for one in tables.items()],
        )
    ]
    blocks += [split] if split else []
    blocks += _series(tables)
    if warned := [_warning(name, entry) for name, table in tables.items() for entry in profile_warnings(table)]:
        blocks.append(Warnings(warned))
    blocks += [_columns(name, table) for name, table in tables.items()]
    blocks.append(Note("`cascade profile` writes a page with a plot a column."))
    return Section("Data", blocks)


def _row(name: str, table: Mapping[str, Any]) -> list[str]:
    time = table["columns"].get(table["time_column"]) or {}
    shares = (percent(table[part]["share"]) for part in ("quarantined", "duplicate_rows"))
    ends = (moment(time.get(end)) for end in ("min", "max"))
    return [name, count(table["rows"]), count(len(table["columns"])), *shares, *ends]


def _split(run: RunRecord) -> Facts | None:
    metrics = run.metrics("etl")
    parts = metrics.get("num_interactions") or metrics.get("num_impressions")
    if not parts:
        return None
    shown = ", ".join(f"{name} {count(parts[name])}" for name in ("train", "valid", "test") if name in parts)
    dropped = ", ".join(f"{name} {count(rows)}" for name, rows in metrics.get("rows_dropped", {}).items())
    return Facts([("split by time", shown)] + ([("rows dropped", dropped)] if dropped else []))


def _series(tables: Mapping[str, Any]) -> Iterator[Plot]:
    for name, table in tables.items():
        time = table["columns"].get(table["time_column"]) or {}
        if (time.get("series") or {}).get("counts"):
            caption = f"{name}: rows per {step_name(time['series']['step_seconds'])}"
            said = f"{caption}, from {moment(time['min'])} to {moment(time['max'])}"
            yield Plot(caption, series_svg(time["series"], said, narrow=True))


def _warning(table: str, entry: Any) -> str:
    return f"{table}{f', {entry.column}' if entry.column else ''}: {entry.text}"


def _columns(name: str, table: Mapping[str, Any]) -> Folded:
    rows = []
    for column, profile in table["columns"].items():
        kind = "id" if "rows_per_id" in profile else profile["kind"]
        known = profile["rows"] > profile["nulls"]["count"]
        held = values_line(profile) if known else NOTHING
        rows.append([column, kind, percent(profile["nulls"]["share"]), distinct(profile), held])
    return Folded(f"{name}: {len(rows)} columns", [Table("", ["column", "kind", "nulls", "distinct", "values"], rows)])
