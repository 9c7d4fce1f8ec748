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
    console = console or wide_console()
    protocol = report["protocol"]
    console.print(
        f"{protocol['num_test_users']} test users ({protocol['num_warm_test_users']} with history, "
        f"{protocol['num_cold_test_users']} without), {protocol['num_items']} items, of which "
        f"{protocol['num_items_never_seen_before_test']} are new in the test period; "
        f"served as {_counted(report['served']['sources'])}; short slates {report['served']['short_slates']}, "
        f"seen items in slates {report['served']['seen_items_in_slates']}"
    )
    console.print(_stages_table(report))
    console.print(_ranking(report), markup=False)
    console.print(_cohorts_table(report))
    for table in cohort_tables(report):
        console.print(table)
    for name, baseline in report["baselines"].items():
        if baseline["skipped"]:
            console.print(f"{spoken(name)} left out: {baseline['skipped']}")


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
        table.add_column(spoken(column).replace("@", "\n@"), justify="right", overflow="fold")
    table.add_column(f"Cascade - it, ndcg@{k}", justify="right", no_wrap=True)
    for stage, metrics in report["systems"]["cascade"].items():
        table.add_row(f"[bold]Cascade {stage}", *(cell(metrics.get(column)) for column in columns), "")
    table.add_section()
    for name, stages in report["systems"].items():
        if name == "cascade":
            continue
        merged = {**stages["slate"], f"recall@{candidate_k}": stages["candidates"][f"recall@{candidate_k}"]}
        apart = report["cascade_minus"][name][f"slate ndcg@{k}"]
        cells = (cell(merged.get(column)) for column in columns)
        table.add_row(spoken(name), *cells, difference(apart))
    return table


def _ranking(report: Report) -> str:
    """What the ranker makes of retrieval's order."""
    ratios = {name: one for name, one in report["ranked_over_unranked"].items() if one["mean"] is not None}
    shown = (f"{name} {one['mean']:.3f} [{one['low']:.3f}, {one['high']:.3f}]" for name, one in ratios.items())
    return f"slate as ranked / as retrieval orders it: {', '.join(shown) or '-'}"


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
        table.add_column(f"{spoken(cohort)} ({num_users}): {metric}", justify="right", overflow="fold")
    for system in report["systems"]:
        name = "[bold]Cascade" if system == "cascade" else spoken(system)
        table.add_row(name, *(cell(report["cohorts"][cohort][system][metric]) for cohort, metric in columns))
    return table


def cohort_tables(report: Report) -> list[Table]:
    """Recall by length of history and by popularity of the item: what `cohorts.recall_by_cohort` gives."""
    k = report["protocol"]["config"]["candidate_k"]
    tables = []
    for title, of_what, cohorts in (
        ("by length of history", "users", report["users_by_history"]),
        ("by tenth of the interactions, most popular items first", "items", report["items_by_popularity"]),
    ):
        table = Table(
            title=f"Candidates' recall@{k} {title}",
            caption=f"in brackets the {of_what} of the cohort",
            box=SIMPLE_HEAD,
            pad_edge=False,
            collapse_padding=True,
        )
        table.add_column("system", no_wrap=True)
        for name, cohort in cohorts.items():
            table.add_column(f"{name}\n({cohort[f'num_{of_what}']})", justify="right")
        for system in report["systems"]:
            table.add_row(spoken(system), *(cell(cohort["recall"][system]) for cohort in cohorts.values()))
        tables.append(table)
    return tables


def wide_console() -> Console:
    """Standard output, 120 columns wide when that is no terminal."""
    console = Console()
    return console if console.is_terminal else Console(width=120)


def cell(value: Mapping[str, Any] | None) -> str:
    """A mean; a dash where there is none."""
    return "-" if value is None or value["mean"] is None else f"{value['mean']:.4f}"


def difference(value: Mapping[str, Any] | None) -> str:
    """A difference with its interval; nothing where there is none."""
    if value is None or value["mean"] is None:
        return ""
    return f"{value['mean']:+.3f} \\[{value['low']:+.3f}, {value['high']:+.3f}]"


def spoken(name: str) -> str:
    """A name of the report as words."""
    return name.replace("_", " ")


def _counted(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
