"""The evaluation of a click model as a table on the terminal."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.click_bootstrap import METRICS

_SPOKEN = {"auc": "AUC", "gauc": "GAUC", "normalised_entropy": "norm. entropy", "calibration_error": "calib. error"}
_SETTINGS = ("valid_log_loss", "valid_auc")


def print_click_report(report: Mapping[str, Any], plot: Path, console: Console | None = None) -> None:
    """Print one row for Cascade and one for each baseline, their differences, how they were tuned, and the plot's path.

    Args:
        report: what `evaluate_clicks` returns.
        console: where to; standard output by default, 140 columns wide when that is no terminal.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=140)
    protocol = report["protocol"]
    rows, rates = protocol["num_impressions"], protocol["click_rate"]
    console.print(
        f"{rows['test']} test impressions, {rates['test']:.1%} clicked; trained on {rows['train']}, of which "
        f"{rates['train']:.1%}; stopped, calibrated and tuned on {rows['valid']}"
    )
    console.print(_table(report))
    console.print(_calibration(report), markup=False)
    for name, baseline in report["baselines"].items():
        if baseline["skipped"]:
            console.print(f"{_spoken(name)} left out: {baseline['skipped']}")
        elif baseline["trials"]:
            settings = {key: value for key, value in baseline["settings"].items() if key not in _SETTINGS}
            chosen = ", ".join(f"{key.replace('_', ' ')} {_number(value)}" for key, value in settings.items())
            console.print(f"{_spoken(name)}: {chosen}; the best of {len(baseline['trials'])} on valid")
    console.print(f"plot: {plot}", soft_wrap=True)


def _table(report: Mapping[str, Any]) -> Table:
    level, group = report["protocol"]["level"], report["protocol"]["group"]
    drawn = "impressions" if group is None else f"the {group['num_groups']} values of {group['of']}"
    metrics = [metric for metric in METRICS if metric != "gauc" or group is not None]
    table = Table(
        title="Clicks foretold, exported model",
        caption=f"brackets: {level:.0%} bootstrap interval over {drawn}, differences paired; log loss in nats, "
        "normalised entropy and calibration error: lower is better; calibration: expected clicks over clicks; "
        "the calibration error's interval leaves out what chance adds",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("system", no_wrap=True)
    for metric in metrics:
        table.add_column(_spoken(metric), justify="right", no_wrap=True)
    for name, measured in report["systems"].items():
        title = f"[bold]{_spoken(name)}" if name == "cascade" else _spoken(name)
        table.add_row(title, *(_cell(measured[metric], "{:.4f}") for metric in metrics))
    table.add_section()
    table.add_row("[bold]Cascade")
    for name, measured in report["cascade_minus"].items():
        table.add_row(f"- {_spoken(name)}", *(_cell(measured[metric], "{:+.4f}") for metric in metrics))
    return table


def _calibration(report: Mapping[str, Any]) -> str:
    """What calibration did."""
    errors = {name: one["calibration_error"]["value"] for name, one in report["systems"].items()}
    chance = report["calibration_error_by_chance"]["cascade"]
    made = report["calibration"]
    how = made["note"] or {"none": "not calibrated"}.get(made["method"], f"calibrated by {made['method']}")
    before = f"{errors['cascade_uncalibrated']:.4f} -> " if "cascade_uncalibrated" in errors else ""
    return f"calibration error {before}{errors['cascade']:.4f}, of which chance alone would give {chance:.4f}; {how}"


def _cell(interval: Mapping[str, float | None], form: str) -> str:
    value, low, high = (
        "-" if one is None else re.sub(r"^([+-]?)0\.", r"\1.", form.format(one)) for one in interval.values()
    )
    return f"{value}\n\\[{low}, {high}]"


def _number(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:.4g}"


def _spoken(name: str) -> str:
    if name.startswith("cascade"):
        return name.replace("cascade", "Cascade").replace("_", ", ")
    return _SPOKEN.get(name, name.replace("_", " "))
