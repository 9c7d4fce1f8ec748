"""The candidates' report as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from pipelines.evaluation_table import cell, cohort_tables, difference, spoken, wide_console

Report = Mapping[str, Any]


def print_candidates(report: Report, console: Console | None = None) -> None:
    """Print one row for the merged stage, each source and each baseline, then cold items and cohorts.

    Args:
        report: what `evaluate_candidates` returns.
        console: where to; standard output by default, 120 columns wide when that is no terminal.
    """
    console = console or wide_console()
    protocol, merged = report["protocol"], report["merged"]
    k = protocol["config"]["candidate_k"]
    console.print(
        f"{protocol['num_test_users']} test users ({protocol['num_warm_test_users']} with history), "
        f"{protocol['num_items']} items, of which {protocol['num_items_never_seen_before_test']} nobody had before; "
        f"lists shorter than {k}: {merged['short_lists']}, seen items in lists: {merged['seen_items']}"
    )
    for table in (_systems_table(report), _comparison_table(report)):
        console.print(table)
    for among, best in report["best_baseline"].items():
        console.print(_best_line(best, among, k))
    console.print(_cold_table(report))
    for table in cohort_tables(report):
        console.print(table)
    for name, baseline in report["baselines"].items():
        if baseline["skipped"]:
            console.print(f"{spoken(name)} left out: {baseline['skipped']}")


def _systems_table(report: Report) -> Table:
    config = report["protocol"]["config"]
    k, slate_k = config["candidate_k"], config["slate_k"]
    columns = [*(f"recall@{cut}" for cut in sorted({*config["ks"], k}) if cut <= k), f"ndcg@{slate_k}"]
    columns += [f"{name}@{k}" for name in ("coverage", "gini", "novelty")] + ["num_candidates"]
    table = _table(
        "Candidates, full catalogue", f"recall@{k} and its {config['level']:.0%} bootstrap interval over users"
    )
    for column in columns:
        table.add_column(spoken(column).replace("@", "\n@"), justify="right")
    table.add_column(f"interval of\nrecall@{k}", justify="right", no_wrap=True)
    for name, metrics in report["systems"].items():
        recall = metrics[f"recall@{k}"]
        table.add_row(
            _name(name, report),
            *(cell(metrics[column]) for column in columns),
            f"{recall['low']:.4f}..{recall['high']:.4f}",
        )
    return table


def _comparison_table(report: Report) -> Table:
    config = report["protocol"]["config"]
    table = _table(
        f"recall@{config['candidate_k']} beside each baseline",
        f"brackets: {config['level']:.0%} bootstrap interval over users, paired",
    )
    for column in ("merged - it", "merged / it", "two tower - it"):
        table.add_column(column, justify="right", no_wrap=True)
    for name, merged_minus in report["merged_minus"].items():
        two_tower_minus = difference(report["two_tower_minus"].get(name))
        table.add_row(spoken(name), difference(merged_minus), ratio(report["merged_over"][name]), two_tower_minus)
    return table


def _best_line(best: Mapping[str, Any], among: str, k: int) -> str:
    verdict = "reached" if best["met"] else "not reached"
    return (
        f"best baseline {spoken(among)}: {spoken(best['name'])}, recall@{k} {best['recall']:.4f}; merged / it "
        f"{ratio(best['ratio'])}; goal {best['goal']}: {verdict}"
    )


def _cold_table(report: Report) -> Table:
    cold, k = report["cold_items"], report["protocol"]["config"]["candidate_k"]
    table = _table(
        f"recall@{k} of the {cold['num_items']} items that nobody had before, over {cold['num_users']} users",
        f"a random order of only these items: {cold['chance']:.4f}; brackets: paired bootstrap interval",
    )
    for variant in ("full\ncatalogue", "only they\nare ranked"):
        table.add_column(variant, justify="right")
    for column in ("merged - it,\nonly they", "two tower - it,\nonly they"):
        table.add_column(column, justify="right", no_wrap=True)
    full, only = cold["full_catalogue"], cold["cold_only"]
    for name in report["systems"]:
        apart = (difference(only[other].get(name)) for other in ("merged_minus", "two_tower_minus"))
        table.add_row(_name(name, report), cell(full["recall"][name]), cell(only["recall"].get(name)), *apart)
    return table


def _table(title: str, caption: str) -> Table:
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    table.add_column("system", no_wrap=True)
    return table


def _name(name: str, report: Report) -> str:
    """Ours in bold."""
    return spoken(name) if name in report["baselines"] else f"[bold]{spoken(name)}"


def ratio(value: Mapping[str, Any]) -> str:
    """A ratio with its interval; a dash where the other side is 0."""
    if value["mean"] is None:
        return "-"
    low, high = ("inf" if value[end] is None else f"{value[end]:.2f}" for end in ("low", "high"))
    return f"{value['mean']:.2f} \\[{low}, {high}]"
