"""The evaluation of a click model as a table on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.click_bootstrap import METRICS


def print_click_report(report: Mapping[str, Any], console: Console | None = None) -> None:
    """Print one row for Cascade and one for each baseline.

    Args:
        report: what `evaluate_clicks` returns.
        console: where to; standard output by default, 120 columns wide when that is no terminal.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
    protocol = report["protocol"]
    rows, rates = protocol["num_impressions"], protocol["click_rate"]
    console.print(
        f"{rows['test']} test impressions, {rates['test']:.1%} clicked; trained on {rows['train']}, of which "
        f"{rates['train']:.1%}; stopped and tuned on {rows['valid']}"
    )
    console.print(_table(report))
    chosen = report["baselines"]["logistic_regression"]["settings"]
    console.print(
        f"logistic regression: l2 {chosen['l2']:g}, learning rate {chosen['learning_rate']:g}, epochs "
        f"{chosen['best_epoch']}; the best of {len(report['baselines']['logistic_regression']['trials'])} on valid"
    )


def _table(report: Mapping[str, Any]) -> Table:
    level = report["protocol"]["level"]
    table = Table(
        title="Clicks foretold, exported model",
        caption=f"brackets: {level:.0%} bootstrap interval over impressions, differences paired; log loss in nats and "
        "normalised entropy: lower is better; calibration: expected clicks over clicks, 1 is right",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("system", no_wrap=True)
    for metric in METRICS:
        table.add_column(_spoken(metric), justify="right", no_wrap=True)
    for name, metrics in report["systems"].items():
        title = "[bold]Cascade" if name == "cascade" else _spoken(name)
        table.add_row(title, *(_cell(metrics[metric], "{:.4f}") for metric in METRICS))
    table.add_section()
    for name, metrics in report["cascade_minus"].items():
        cells = (_cell(metrics[metric], "{:+.4f}") for metric in METRICS)
        table.add_row(f"Cascade - {_spoken(name)}", *cells)
    return table


def _cell(interval: Mapping[str, float | None], form: str) -> str:
    value, low, high = ("-" if one is None else form.format(one) for one in interval.values())
    return f"{value}\n\\[{low}, {high}]"


def _spoken(name: str) -> str:
    return {"auc": "AUC"}.get(name, name.replace("_", " "))
