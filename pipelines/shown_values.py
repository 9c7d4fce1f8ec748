"""Numbers, shares and times as people read them, on pages and on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from features.profile import printable

NOTHING = "–"
"""Stands where there is no value."""


def text(value: object) -> str:
    return printable(str(value))


def count(value: int) -> str:
    return f"{value:,}"


def percent(share: float) -> str:
    return "< 0.01 %" if 0 < share < 1e-4 else f"{100 * share:.3g} %"


def number(value: float | None) -> str:
    """Whole numbers up to seven digits as they are, else as `short`."""
    if value is None:
        return NOTHING
    return f"{value:.0f}" if value == round(value) and abs(value) < 1e7 else short(value)


def short(value: float, digits: int = 4, thousands: float = 1e4) -> str:
    """A few digits, with k (from `thousands` on), M, G, T for what is large."""
    for bound, unit, name in ((1e12, 1e12, "T"), (1e9, 1e9, "G"), (1e6, 1e6, "M"), (thousands, 1e3, "k")):
        if bound <= abs(value) < 1e15:
            return f"{value / unit:.{digits}g}{name}"
    return f"{value:.{digits}g}"


def moment(time: str | None) -> str:
    """A time of a profile, without a midnight that says nothing."""
    return NOTHING if time is None else time.removesuffix("T00:00:00").replace("T", " ")


def decimal(value: float | None) -> str:
    return NOTHING if value is None else f"{value:.4f}"


def interval(one: Mapping[str, Any] | None, signed: bool = False) -> str:
    """A mean, or value, with the ends of its interval if it has one."""
    middle = None if one is None else one.get("mean", one.get("value"))
    if one is None or middle is None:
        return NOTHING
    form = "{:+.4f}" if signed else "{:.4f}"
    if one.get("low") is None:
        return form.format(middle)
    return " ".join((form.format(middle), f"[{form.format(one['low'])}, {form.format(one['high'])}]"))


def seconds(value: float) -> str:
    return f"{value:.1f} s" if value < 120 else f"{value / 60:.1f} min"


def memory(num_bytes: int) -> str:
    for unit, name in ((2**30, "GiB"), (2**20, "MiB")):
        if num_bytes >= unit:
            return f"{num_bytes / unit:.2f} {name}"
    return f"{num_bytes / 2**10:.2f} KiB"
