"""The evaluation report as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

Report = Mapping[str, Any]


def print_report(report: Report, console: Console | None = None) -> None:
    """Print one row for each stage of Cascade and for each baseline, then the cohorts.

    Args:
        report: what `evaluate` returns.
        console: where to; standard output by default, 120 columns wide when that is no terminal.
    """
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=120)
    protocol = report["protocol"]
    console.print(
        f"{protocol['num_test_users']} test users ({protocol['num_warm_test_users']} with history, "
        f"{protocol['num_cold_test_users']} without), {protocol['num_items']} items, of which "
        f"{protocol['num_items_never_seen_before_test']} are new in the test period; "
        f"served as {_counted(report['served']['sources'])}; short slates {report['served']['short_slates']}, "
        f"seen items in slates {report['served']['seen_items_in_slates']}"
    )
    console.print(_stages_table(report))
    console.print(_cohorts_table(report))
    for name, baseline in report["baselines"].items():
        if baseline["skipped"]:
            console.print(f"{_spoken(name)} left out: {baseline['skipped']}")


def _stages_table(report: Report) -> Table:
    k, candidate_k = report["protocol"]["config"]["slate_k"], report["protocol"]["config"]["candidate_k"]
    columns = [f"recall@{candidate_k}", *(f"{name}@{k}" for name in ("recall", "ndcg", "mrr")), "map@12"]
    columns += [f"{name}@{k}" for name in ("hit_rate", "coverage", "novelty")]
    columns = list(dict.fromkeys(columns))
    level = report["protocol"]["config"]["level"]
    table = Table(
        title="Quality as served, full catalogue",
        caption=f"brackets: {level:.0%} bootstrap interval over users",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("system", no_wrap=True)
    for column in columns:
        table.add_column(_spoken(column).replace("@", "\n@"), justify="right", overflow="fold")
    table.add_column(f"Cascade - it, ndcg@{k}", justify="right", no_wrap=True)
    for stage, metrics in report["systems"]["cascade"].items():
        table.add_row(f"[bold]Cascade {stage}", *(_cell(metrics.get(column)) for column in columns), "")
    table.add_section()
    for name, stages in report["systems"].items():
        if name == "cascade":
            continue
        merged = {**stages["slate"], f"recall@{candidate_k}": stages["candidates"][f"recall@{candidate_k}"]}
        difference = report["cascade_minus"][name][f"slate ndcg@{k}"]
        cells = (_cell(merged.get(column)) for column in columns)
        table.add_row(_spoken(name), *cells, _difference(difference))
    return table


def _cohorts_table(report: Report) -> Table:
    table = Table(
        title="Cohorts",
        caption="in brackets the users who have a relevant item there; intervals are in evaluation.json",
        box=SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
    )
    table.add_column("system", no_wrap=True)
    columns = [(cohort, metric) for cohort, systems in report["cohorts"].items() for metric in systems["cascade"]]
    for cohort, metric in columns:
        num_users = report["cohorts"][cohort]["cascade"][metric]["num_users"]
        table.add_column(f"{_spoken(cohort)} ({num_users}): {metric}", justify="right", overflow="fold")
    for system in report["systems"]:
        name = "[bold]Cascade" if system == "cascade" else _spoken(system)
        table.add_row(name, *(_cell(report["cohorts"][cohort][system][metric]) for cohort, metric in columns))
    return table


def _cell(value: Mapping[str, Any] | None) -> str:
    return "-" if value is None or value["mean"] is None else f"{value['mean']:.4f}"


def _difference(value: Mapping[str, Any]) -> str:
    return f"{value['mean']:+.3f} \\[{value['low']:+.3f}, {value['high']:+.3f}]"


def _spoken(name: str) -> str:
    return name.replace("_", " ")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
