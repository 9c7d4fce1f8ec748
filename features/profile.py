"""Data-quality profile of the raw tables: what a person would look at before trusting them, as one JSON document.

Equal tables give equal profiles, bit for bit, so a profile can be part of an artifact with a content hash.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

from features.column_profile import DISTINCT_LIMIT, Role, column_profile
from features.distribution import share
from features.errors import CascadeError

FORMAT_VERSION = 1
Profile = dict[str, Any]
Source = Path | Sequence[Path] | pa.Table
"""A parquet file, a folder of them, several files, or a table in memory."""

MAX_REASONS = 20
ROWS_PER_PASS = 8_000_000
"""Rows whose hashes are held at a time when duplicates are counted."""


class ProfileError(CascadeError, ValueError):
    """A table cannot be profiled; the message names the table and the column."""


def profile_tables(
    tables: Mapping[str, Source],
    *,
    keys: Mapping[str, Sequence[str]] | None = None,
    times: Mapping[str, str] | None = None,
    rows_read: Mapping[str, int] | None = None,
    quarantine: Source | None = None,
    fitted: Profile | None = None,
    vocabularies: Mapping[str, Mapping[str, Sequence[str]]] | None = None,
    distinct_limit: int = DISTINCT_LIMIT,
) -> Profile:
    """Profile every table and column.

    Args:
        tables: name -> rows.
        keys: table -> columns that together name one row; those that are not the time column are ids.
        times: table -> its time column, Unix seconds or a date.
        rows_read: table -> rows in the raw files; the rows of the table and of its quarantine if not given.
        quarantine: rows that could not be read, with the columns table and reason.
        fitted: the profile of the tables that features were fitted on; then what of the new tables falls into its bins
            and top values is counted too, which `schema_drift` reads.
        vocabularies: table -> column -> known categories; then rows with another one are counted as unseen.
        distinct_limit: distinct values of a column up to which they are counted exactly; the memory grows with it.
    Returns: {"format_version", "tables": {name: table}}, numbers rounded to 6 significant digits.
    Raises: ProfileError if a key or time column is missing.
    """
    reasons = _reasons(quarantine)
    profiles = {}
    for name, source in tables.items():
        frame = _scan(name, source)
        time_column, key = (times or {}).get(name), tuple((keys or {}).get(name, ()))
        _check_columns(name, frame, (*key, *filter(None, [time_column])))
        old = ((fitted or {}).get("tables", {}).get(name) or {}).get("columns", {})
        known = (vocabularies or {}).get(name, {})
        profile = _rows_profile(frame, key, (rows_read or {}).get(name), reasons.get(name, {}))
        profile |= {"time_column": time_column, "columns": {}}
        for column in frame.collect_schema().names():
            profile["columns"][column] = column_profile(
                frame.select(_named(frame, column)),
                role=_role(column, key, time_column),
                fitted=old.get(column),
                vocabulary=known.get(column),
                distinct_limit=distinct_limit,
            )
        profiles[name] = profile
    return {"format_version": FORMAT_VERSION, "tables": profiles}


def printable(text: str) -> str:
    """Control characters as Python writes them, so that data can steer neither a terminal nor a page."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def _rows_profile(frame: pl.LazyFrame, key: Sequence[str], num_read: int | None, reasons: Mapping[str, int]) -> Profile:
    """What is known of whole rows."""
    rows = int(frame.select(pl.len()).collect(engine="streaming").item())
    num_bad = sum(reasons.values())
    if num_read is None:
        num_read = rows + num_bad
    columns = frame.collect_schema().names()
    repeated = rows - _num_distinct_rows(frame, columns, rows)
    profile: Profile = {
        "rows": rows,
        "rows_read": num_read,
        "quarantined": {"count": num_bad, "share": share(num_bad, num_read), "reasons": dict(reasons)},
        "duplicate_rows": {"count": repeated, "share": share(repeated, rows)},
        "duplicate_keys": None,
    }
    if key:
        whole = set(key) == set(columns)
        again = repeated if whole else rows - _num_distinct_rows(frame, key, rows)
        profile["duplicate_keys"] = {"columns": list(key), "count": again, "share": share(again, rows)}
    return profile


def _num_distinct_rows(frame: pl.LazyFrame, columns: Sequence[str], rows: int) -> int:
    """Distinct rows by a 64-bit hash, in as many passes as bound the memory."""
    if not columns:
        return rows
    passes = max(1, -(-rows // ROWS_PER_PASS))
    hashes = frame.select(key=pl.struct(_named(frame, *columns)).hash())
    distinct = 0
    for turn in range(passes):
        part = hashes.filter(pl.col("key") % passes == turn) if passes > 1 else hashes
        distinct += part.select(pl.col("key").n_unique()).collect(engine="streaming").item() if rows else 0
    return distinct


def _scan(name: str, source: Source) -> pl.LazyFrame:
    if isinstance(source, pa.Table):
        return pl.LazyFrame(pl.from_arrow(source))
    paths = [source] if isinstance(source, Path) else list(source)
    if len(paths) == 1 and paths[0].is_dir():
        paths = sorted(paths[0].glob("*.parquet"))
    if not paths or not all(path.is_file() for path in paths):
        raise ProfileError(f"table {name!r} needs parquet files, got {source}: there is no such file; correct the path")
    return pl.scan_parquet(paths, glob=False)


def _named(frame: pl.LazyFrame, *columns: str) -> pl.Expr:
    """Columns by place, because Polars reads some names as patterns."""
    names = frame.collect_schema().names()
    return pl.nth([names.index(column) for column in columns])


def _check_columns(name: str, frame: pl.LazyFrame, needed: Sequence[str]) -> None:
    columns = frame.collect_schema().names()
    if missing := [column for column in needed if column not in columns]:
        raise ProfileError(
            f"table {name!r} needs the columns {', '.join(missing)} (keys or times), got {', '.join(columns)}; "
            "name columns of the table"
        )


def _role(column: str, key: Sequence[str], time_column: str | None) -> Role | None:
    if column == time_column:
        return "time"
    return "id" if column in key else None


def _reasons(quarantine: Source | None) -> dict[str, dict[str, int]]:
    """Table -> reason -> rows, the most frequent reason first; the rare ones of many together."""
    if quarantine is None:
        return {}
    counts = _scan("quarantine", quarantine).group_by("table", "reason").agg(rows=pl.len())
    counts = counts.collect(engine="streaming").sort("table", "rows", "reason", descending=[False, True, False])
    reasons: dict[str, dict[str, int]] = {}
    for table, reason, rows in counts.iter_rows():
        of_table = reasons.setdefault(table, {})
        reason = reason if len(of_table) < MAX_REASONS else "other reasons"
        of_table[reason] = of_table.get(reason, 0) + rows
    return reasons
