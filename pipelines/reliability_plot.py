"""What a click model says against what came of it, as one SVG file."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator, Mapping
from itertools import cycle
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from features.profile import printable

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text stays text
    "svg.hashsalt": "cascade",  # the same ids, so the same bytes, on every run
    "font.size": 9,
    "font.family": "sans-serif",
    "text.parse_math": False,
}
_COLORS = ("#1f5fa8", "#c2571a", "#3b7d3b", "#7a4fa3", "#8a6d1a", "#555555")


def write_reliability_plot(report: Mapping[str, Any], path: Path) -> None:
    """Two fields: the model before and after calibration, and the model beside the baselines.

    Args:
        report: what `evaluate_clicks` returns.
    """
    curves = report["reliability"]
    own = [name for name in ("cascade", "cascade_uncalibrated") if name in curves]
    others = ["cascade", *(name for name in curves if name not in own)]
    with matplotlib.rc_context(_STYLE):
        figure = Figure(figsize=(9, 5.4), layout="constrained")
        for axes, names, num_barred in zip(figure.subplots(1, 2), (own, others), (2, 1), strict=True):
            _draw(axes, {name: curves[name] for name in names}, report["systems"], num_barred)
        rows = report["protocol"]["num_impressions"]["test"]
        figure.suptitle(
            f"Reliability, {rows:,} test impressions in bins of equal size; bars: 95% intervals of a bin's click rate",
            fontsize=9,
        )
        out = io.StringIO()
        no_metadata = dict.fromkeys(("Date", "Creator", "Format", "Type"))
        figure.savefig(out, format="svg", bbox_inches="tight", metadata=no_metadata)
    path.write_text(re.sub(r"<metadata>.*?</metadata>", "", out.getvalue(), flags=re.DOTALL), encoding="utf-8")


def _draw(axes: Axes, curves: Mapping[str, Any], systems: Mapping[str, Any], num_barred: int) -> None:
    """The first `num_barred` curves show intervals; those of all would hide each other."""
    errors = {name: systems[name]["calibration_error"]["value"] for name in curves}
    labelled = {f"{name.replace('_', ' ')}, calibration error {errors[name]:.4f}": one for name, one in curves.items()}
    reliability_curves(axes, labelled, cycle(_COLORS), "#999999", num_barred)
    axes.legend(frameon=False, fontsize=8, loc="upper left", bbox_to_anchor=(0, -0.14))


def reliability_curves(
    axes: Axes, curves: Mapping[str, Any], colors: Iterator[str], diagonal: str, num_barred: int = 1
) -> None:
    """Draw what was said against what came of it, by label; a calibrated model lies on the diagonal."""
    end = 1.05 * max(max(*curve["probability"], *curve["click_rate"]) for curve in curves.values())
    axes.plot([0, end], [0, end], color=diagonal, linewidth=0.8, zorder=1)
    for place, ((label, curve), color) in enumerate(zip(curves.items(), colors, strict=False)):
        low, rate, high = (np.array(curve[key]) for key in ("low", "click_rate", "high"))
        axes.errorbar(
            curve["probability"],
            rate,
            yerr=np.maximum([rate - low, high - rate], 0) if place < num_barred else None,
            color=color,
            linewidth=1,
            elinewidth=0.6,
            marker="o",
            markersize=3,
            label=printable(label),
        )
    axes.set(xlim=(0, end), ylim=(0, end), xlabel="mean probability said", ylabel="share clicked", aspect="equal")
    axes.spines[["top", "right"]].set_visible(False)
