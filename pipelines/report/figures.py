"""The figures of a report as blocks: points with intervals, and curves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from features.profile import printable
from pipelines.html_page import BAR, LINE, SERIES, TEXT, inline_svg
from pipelines.reliability_plot import reliability_curves
from pipelines.report.blocks import Plot
from pipelines.shown_values import decimal, interval

WIDTH = 4.6
"""Inches: drawn for the screen of a phone, where text that shrinks cannot be read."""
MARKERS = ("o", "s", "^", "D", "v", "P")
"""With the color, so that curves can be told apart without it."""
Curve = Sequence[tuple[float, float]]


def forest(caption: str, rows: Mapping[str, Mapping[str, Any]], zero: bool = False) -> Plot | None:
    """A point with its interval for each name; those without a value are left out.

    Args:
        rows: name -> mean (or value), low, high.
        zero: draw a line at 0, for differences.
    Returns: None if nothing has a value.
    """
    known = {name: one for name, one in rows.items() if _middle(one) is not None}
    if not known:
        return None
    axes = _axes(0.55 + 0.21 * len(known))
    for place, (name, one) in enumerate(known.items()):
        middle, own = _middle(one) or 0.0, name.startswith("Cascade")
        ends = None
        if one.get("low") is not None:
            ends = np.maximum([[middle - one["low"]], [one["high"] - middle]], 0)
        style = {"color": BAR if own else TEXT, "markersize": 5 if own else 3.5, "elinewidth": 2 if own else 1}
        axes.errorbar([middle], [place], xerr=ends, marker="o", **style)
    if zero:
        axes.axvline(0, color=LINE, linewidth=1, zorder=0)
    axes.set_yticks(range(len(known)), [printable(name) for name in known])
    axes.set_ylim(len(known) - 0.5, -0.5)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    said = "; ".join(f"{name} {interval(one, signed=zero)}" for name, one in known.items())
    return _plot(caption, axes, said)


def grouped(caption: str, systems: Mapping[str, Mapping[str, Mapping[str, Any]]]) -> Plot:
    """Points with intervals side by side in groups.

    Args:
        systems: name -> group -> mean, low, high; the groups are those of the first system.
    """
    groups = list(next(iter(systems.values())))
    axes = _axes(0.6 + 0.3 * len(groups))
    for place, ((name, values), color, marker) in enumerate(zip(systems.items(), SERIES, MARKERS, strict=False)):
        known = [(row, values[group]) for row, group in enumerate(groups) if values[group]["mean"] is not None]
        middle = np.array([one["mean"] for _, one in known])
        ends = [middle - [one["low"] for _, one in known], [one["high"] for _, one in known] - middle]
        rows = [row + 0.25 * place for row, _ in known]
        style = {"color": color, "marker": marker, "markersize": 3.5, "elinewidth": 1, "linestyle": "none"}
        axes.errorbar(middle, rows, xerr=np.maximum(ends, 0), label=printable(name), **style)
    axes.set_yticks(range(len(groups)), [printable(group) for group in groups])
    axes.set_ylim(len(groups) - 0.4, -0.4)
    axes.set_xlim(left=0)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="x", color=LINE, linewidth=0.5)
    axes.set_axisbelow(True)
    _legend(axes)
    said = "; ".join(
        f"{name}: {', '.join(f'{group} {interval(one)}' for group, one in values.items())}"
        for name, values in systems.items()
    )
    return _plot(caption, axes, said)


def curves(caption: str, lines: Mapping[str, Curve], across: str, marked: Sequence[float] = ()) -> Plot | None:
    """Curves over one number, such as the epoch.

    Args:
        marked: where along it something stands out: drawn as upright lines.
    Returns: None if no curve has a point.
    """
    known = {name: points for name, points in lines.items() if points}
    if not known:
        return None
    axes = _axes(2.1)
    for (name, points), color, marker in zip(known.items(), cycle(SERIES), cycle(MARKERS)):
        axes.plot(
            *zip(*points, strict=True), color=color, marker=marker, markersize=3, linewidth=1.2, label=printable(name)
        )
    for at in marked:
        axes.axvline(at, color=TEXT, linewidth=0.8, linestyle=":", zorder=0)
    axes.set_xlabel(across)
    axes.xaxis.set_major_locator(
        MaxNLocator(8, integer=all(x == round(x) for points in known.values() for x, _ in points))
    )
    axes.yaxis.set_major_locator(MaxNLocator(5))
    if len(known) > 1:
        _legend(axes)
    said = "; ".join(
        f"{name}: {', '.join(f'{x:g}: {decimal(y)}' for x, y in points)}" for name, points in known.items()
    )
    return _plot(caption, axes, f"by {across}: {said}")


def reliability(caption: str, systems: Mapping[str, Mapping[str, Sequence[float]]]) -> Plot:
    """What was said against what came of it; the first system shows its bins' intervals.

    Args:
        systems: name -> probability, click_rate, low, high, a value a bin.
    """
    axes = _axes(WIDTH)
    reliability_curves(axes, systems, cycle(SERIES), LINE)
    _legend(axes)
    said = "; ".join(
        f"{name}: {', '.join(f'{x:.3f}: {y:.3f}' for x, y in zip(one['probability'], one['click_rate'], strict=True))}"
        for name, one in systems.items()
    )
    return _plot(caption, axes, said)


def _axes(height: float) -> Axes:
    axes: Axes = Figure(figsize=(WIDTH, height), layout="constrained").subplots()
    axes.spines[["top", "right"]].set_visible(False)
    axes.tick_params(length=2)
    return axes


def _legend(axes: Axes) -> None:
    """Above the curves, where it hides none."""
    axes.legend(frameon=False, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=2, borderpad=0)


def _plot(caption: str, axes: Axes, said: str) -> Plot:
    figure = axes.figure
    assert isinstance(figure, Figure)
    return Plot(caption, inline_svg(figure, f"{caption}: {said}"))


def _middle(one: Mapping[str, Any]) -> float | None:
    return one.get("mean", one.get("value"))
