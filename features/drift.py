"""What changed between the tables that features were fitted on and new ones, named column by column.

Reads two profiles (`features.profile`), the new one made with `fitted=` the old one, and looks at no data.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import StringIO
from typing import Any, Literal

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text
from scipy.stats import chi2

from features.column_profile import TOP_VALUES
from features.profile import printable

Severity = Literal["error", "warning", "info"]
Column = Mapping[str, Any]
_ORDER: tuple[Severity, ...] = ("error", "warning", "info")
_READ_AS = {"category": "text", "text": "text", "number": "number", "time": "time", "list": "list"}

PSI_MODERATE, PSI_LARGE = 0.1, 0.25
"""Population stability index: below 0.1 nothing to do, above 0.25 another population.
Source: Siddiqi, Credit Risk Scorecards, 2006."""
PSI_BIN_SHARE = 0.05
"""Neighbouring bins are joined until each holds this share of the fitted rows: thin bins only add noise."""
PSI_CHANCE = 0.999
"""A PSI that samples of this size reach by chance in more than 1 of 1,000 cases is not reported. Without drift it is
(1/n + 1/m) times chi-square with B - 1 degrees of freedom. Source: Yurdakul & Naranjo, Journal of Risk Model
Validation 14(4), 2020."""
MEAN_SHIFT = 0.5
"""Standard deviations of the fitted column; 0.5 is a medium effect. Source: Cohen, Statistical Power Analysis, 1988."""
STANDARD_ERRORS = 4.0
"""A mean or a share of nulls must also differ by so many standard errors, so that a few rows raise no alarm."""
NULL_SHARE_CHANGE = 0.05
"""Difference of the shares of nulls, 0..1. Our choice."""
OUTSIDE_SHARE = 0.01
"""Share of rows outside the fitted range. Our choice: the fitted range itself leaves out none."""
UNSEEN_SHARE = 0.05
"""Share of rows with a category that was not there before: features see all of those as one. Our choice."""
UNSEEN_ID_SHARE = 0.9
"""The same for ids: some are always new, but when nearly all are, they are written in another way. Our choice."""
BAD_SHARE_CHANGE = 0.01
"""Growth of the share of duplicate, quarantined or too early rows. Our choice: data.max_quarantined_share's default."""


@dataclass(frozen=True, kw_only=True)
class Drift:
    """One finding."""

    severity: Severity
    """"error": features cannot be made of the column; "warning": they can, but models may be wrong; "info": to know."""
    table: str
    column: str
    """"" if the whole table is meant; "tags[]" for the elements of the list tags."""
    check: str
    expected: str
    came: str
    action: str


def schema_drift(fitted: Mapping[str, Any], new: Mapping[str, Any]) -> list[Drift]:
    """Compare two profiles.

    Args:
        fitted: profile of what features were fitted on.
        new: profile of the new tables, made with `fitted=fitted`, and with `vocabularies` if unseen categories of
            columns with more than 20 values shall be counted.
    Returns: findings, errors first, then in order of the tables; none if nothing changed.
    """
    found: list[Drift] = []
    for name in sorted({*fitted["tables"], *new["tables"]}):
        old_table, new_table = fitted["tables"].get(name), new["tables"].get(name)
        if new_table is None:
            found.append(_drift("info", name, "", "table", "a table", "none", "fine if nothing of it is to be added"))
        elif old_table is None:
            found.append(_drift("warning", name, "", "table", "no such table", "a table", "it is ignored; fit anew"))
        else:
            found += [*_rows_drift(name, old_table, new_table), *_columns_drift(name, old_table, new_table)]
    return sorted(found, key=lambda drift: _ORDER.index(drift.severity))


def drift_lines(found: Sequence[Drift], width: int = 120) -> list[str]:
    """The findings as a text table, `width` characters wide."""
    if not found:
        return ["no drift: the new tables look like those that the features were fitted on"]
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("severity", "column", "check", "expected", "came", "what to do"):
        table.add_column(title, overflow="fold")
    for drift in found:
        where = f"{drift.table}.{drift.column}" if drift.column else drift.table
        cells = (drift.severity, where, drift.check, drift.expected, drift.came, drift.action)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    out = StringIO()
    Console(file=out, width=width, color_system=None).print(table)
    return [line.rstrip() for line in out.getvalue().splitlines() if line.strip()]


def population_stability_index(expected: Sequence[int], came: Sequence[int]) -> tuple[float, float]:
    """PSI of two histograms, and the value that it stays under by chance in 999 of 1,000 cases.

    Args:
        expected, came: rows in the same B bins; half a row is added to each, so that an empty bin has a logarithm.
    Returns: sum of (q - p) ln(q / p) over bins, and its bound if both are samples of one population.
    """
    p, q = (np.asarray(counts, np.float64) + 0.5 for counts in (expected, came))
    noise = (1 / p.sum() + 1 / q.sum()) * chi2.ppf(PSI_CHANCE, len(p) - 1) if len(p) > 1 else math.inf
    p, q = p / p.sum(), q / q.sum()
    return float(((q - p) * np.log(q / p)).sum()), float(noise)


def _drift(severity: Severity, table: str, column: str, check: str, expected: str, came: str, action: str) -> Drift:
    return Drift(
        severity=severity, table=table, column=column, check=check, expected=expected, came=came, action=action
    )


def _rows_drift(name: str, old: Column, new: Column) -> Iterator[Drift]:
    if new["rows"] == 0:
        yield _drift("warning", name, "", "rows", "at least 1", "0", "nothing to add; check the path of the files")
    for check, action in (
        ("quarantined", "look into the quarantine for the reasons"),
        ("duplicate_rows", "check whether a file was delivered twice"),
        ("duplicate_keys", "check whether a file was delivered twice"),
    ):
        before, now = (table[check]["share"] if table[check] else 0.0 for table in (old, new))
        if now - before > BAD_SHARE_CHANGE:
            yield _drift("warning", name, "", check.replace("_", " "), _percent(before), _percent(now), action)


def _columns_drift(name: str, old: Column, new: Column) -> Iterator[Drift]:
    for column, before in old["columns"].items():
        now = new["columns"].get(column)
        if now is None:
            expected = f"{before['kind']}, {before['type']}"
            yield _drift(
                "error", name, column, "missing", expected, "no such column", _missing_action(column, old, new)
            )
        else:
            yield from _column_drift(name, column, before, now)
    for column, now in new["columns"].items():
        if column not in old["columns"]:
            came = f"{now['kind']}, {now['type']}"
            yield _drift("warning", name, column, "new", "no such column", came, "it is ignored; to use it, fit anew")


def _missing_action(column: str, old: Column, new: Column) -> str:
    renamed = [other for other in new["columns"] if other not in old["columns"]]
    if renamed:
        return f"is it now called {' or '.join(renamed[:3])}? Name it in the configuration"
    return f"deliver {column}, or fit anew without it"


def _column_drift(table: str, column: str, old: Column, new: Column) -> Iterator[Drift]:
    """What changed in a column that both profiles have."""
    both_lists = old["kind"] == new["kind"] == "list"  # then the elements say it
    if new["nulls"]["share"] < 1.0 and old["type"] != new["type"] and not both_lists:
        type_drift = _type_drift(table, column, old, new)
        yield type_drift
        if type_drift.severity == "error" or old["kind"] != new["kind"]:
            return
    before, now = old["nulls"]["share"], new["nulls"]["share"]
    if abs(now - before) > max(NULL_SHARE_CHANGE, _chance(old, new)):
        action = "check where the values went" if now > before else "check what fills the gaps"
        yield _drift("warning", table, column, "nulls", _percent(before), _percent(now), action)
    if old["kind"] != new["kind"] and {old["kind"], new["kind"]} != {"category", "text"}:
        return  # nothing is known of one of them
    if new["kind"] == "number":
        yield from _number_drift(table, column, old, new)
    elif new["kind"] == "time":
        yield from _time_drift(table, column, old, new)
    elif new["kind"] == "list":
        yield from _mean_drift(table, column, "mean length", old["length"], new["length"], _num_known(new))
        yield from _column_drift(table, f"{column}[]", old["elements"], new["elements"])
    else:
        yield from _category_drift(table, column, old, new)


def _type_drift(table: str, column: str, old: Column, new: Column) -> Drift:
    """An error if the new type cannot be read as the old one."""
    expected, came = (f"{profile['kind']}, {profile['type']}" for profile in (old, new))
    was, now = _READ_AS[old["kind"]], _READ_AS[new["kind"]]
    if was == "text" and new["kind"] in ("category", "number") and new["type"] != "String":
        action = "it is read as text: check for lost leading zeros, and for 1.0 instead of 1"
        return _drift("warning", table, column, "type", expected, came, action)
    if was == now:
        return _drift("info", table, column, "type", expected, came, "none: it is read the same way")
    return _drift("error", table, column, "type", expected, came, f"deliver it as {old['type']}, or fit anew")


def _number_drift(table: str, column: str, old: Column, new: Column) -> Iterator[Drift]:
    yield from _mean_drift(table, column, "mean", old, new, _num_known(new))
    if "on_fitted" not in new or not _num_known(new):
        return
    on_fitted, known = new["on_fitted"], _num_known(new)
    outside = on_fitted["below"] + on_fitted["above"]
    if outside:
        came = f"{new['min']:g} to {new['max']:g}; {_percent(outside / known)} of {known:,} rows outside"
        severity = "warning" if outside / known > OUTSIDE_SHARE else "info"
        action = "check the unit; models have not seen such values"
        yield _drift(severity, table, column, "range", f"{old['min']:g} to {old['max']:g}", came, action)
    yield from _psi_drift(table, column, *_joined_bins(old["histogram"]["counts"], on_fitted["counts"]))


def _mean_drift(table: str, column: str, check: str, old: Column, new: Column, rows: int) -> Iterator[Drift]:
    if not old["std"] or new["mean"] is None or not rows:
        return
    shift = (new["mean"] - old["mean"]) / old["std"]
    if abs(shift) > max(MEAN_SHIFT, STANDARD_ERRORS / math.sqrt(rows)):
        came = f"{new['mean']:g}: {shift:+.2f} standard deviations"
        yield _drift(
            "warning", table, column, check, f"{old['mean']:g}", came, "check the unit and the source; fit anew"
        )


def _time_drift(table: str, column: str, old: Column, new: Column) -> Iterator[Drift]:
    early = new.get("on_fitted", {}).get("before_end", 0)
    if early:
        rows = sum(new["series"]["counts"])
        came = f"{_percent(early / rows)} of {rows:,} rows before, from {new['min']}"
        severity = "warning" if early / rows > BAD_SHARE_CHANGE else "info"
        yield _drift(severity, table, column, "starts early", f"from {old['max']}", came, "check for rows sent twice")


def _category_drift(table: str, column: str, old: Column, new: Column) -> Iterator[Drift]:
    on_fitted, is_id = new.get("on_fitted"), "rows_per_id" in new
    unseen, rows = _unseen(old, new)
    if unseen:
        bound = UNSEEN_ID_SHARE if is_id else UNSEEN_SHARE
        severity = "warning" if unseen / rows > bound and new["kind"] == "category" else "info"
        came = f"{_percent(unseen / rows)} of {rows:,} rows with another"
        expected = f"one of {old['cardinality']:,} values"
        action = "fit anew to tell them apart; features see them as one"
        if is_id:
            action = "none: new ids are normal" if severity == "info" else "check how ids are written (leading zeros?)"
        yield _drift(severity, table, column, "unseen", expected, came, action)
    if on_fitted and old["top"] and not is_id and new["kind"] == "category":
        before: dict[str, int] = dict.fromkeys(on_fitted["counts"], 0)
        for entry in old["top"]:
            before[entry["value"]] += entry["count"]
        others = _num_known(old) - sum(before.values())
        came = [*on_fitted["counts"].values(), on_fitted["others"]]
        yield from _psi_drift(table, column, [*before.values(), others], came)


def _psi_drift(table: str, column: str, expected: Sequence[int], came: Sequence[int]) -> Iterator[Drift]:
    if not sum(expected) or not sum(came):
        return
    index, noise = population_stability_index(expected, came)
    if index > max(PSI_MODERATE, noise):
        severity = "warning" if index > PSI_LARGE else "info"
        action = "compare the two in the profile; fit anew if it stays so"
        yield _drift(severity, table, column, "distribution", f"PSI at most {PSI_MODERATE:g}", f"{index:.2f}", action)


def _joined_bins(expected: Sequence[int], came: Sequence[int]) -> tuple[list[int], list[int]]:
    """Neighbouring bins joined until each holds PSI_BIN_SHARE of the expected rows; a thin rest joins the last."""
    wanted = PSI_BIN_SHARE * sum(expected)
    joined: list[list[int]] = [[0, 0]]
    for before, now in zip(expected, came, strict=True):
        if joined[-1][0] >= wanted:
            joined.append([0, 0])
        joined[-1][0] += before
        joined[-1][1] += now
    if len(joined) > 1 and joined[-1][0] < wanted:
        before, now = joined.pop()
        joined[-1][0] += before
        joined[-1][1] += now
    return [before for before, _ in joined], [now for _, now in joined]


def _unseen(old: Column, new: Column) -> tuple[int, int]:
    """Rows with a category that was not there before, and all rows; (0, 1) if that cannot be told."""
    rows = max(1, _num_known(new))
    if "unseen" in new:
        return new["unseen"]["count"], rows
    if "on_fitted" in new and old["cardinality"] <= TOP_VALUES:  # then the top values are all values
        return new["on_fitted"]["others"], rows
    return 0, 1


def _chance(old: Column, new: Column) -> float:
    """Difference of the shares of nulls that samples of these sizes may show."""
    rows = [max(1, column["rows"]) for column in (old, new)]
    pooled = (old["nulls"]["count"] + new["nulls"]["count"]) / sum(rows)
    return STANDARD_ERRORS * math.sqrt(pooled * (1 - pooled) * (1 / rows[0] + 1 / rows[1]))


def _num_known(column: Column) -> int:
    return column["rows"] - column["nulls"]["count"]


def _percent(part: float) -> str:
    return f"{part:.3g}" if 0 < part < 1e-4 else f"{part:.2%}"
