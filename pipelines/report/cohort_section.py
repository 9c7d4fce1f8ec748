"""Quality by cohort: users with and without history, lengths of history, popularity of items."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.report.blocks import Block, Folded, Section, Table
from pipelines.report.figures import forest, grouped
from pipelines.report.quality_section import best_baseline, by_system, system_name, system_table
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import interval

RECALLS = {
    "users_by_history": ("by interactions that the user had", "users"),
    "items_by_popularity": ("by tenth of the interactions, most popular items first", "items"),
}


def cohort_section(run: RunRecord) -> Section | None:
    """None if the run was not evaluated, or holds impressions."""
    report = run.evaluation
    if report is None or run.holds_impressions:
        return None
    return Section("Quality by cohort", [*_kinds(report), *_recalls(report)])


def _kinds(report: Mapping[str, Any]) -> Iterator[Block]:
    for cohort, systems in report["cohorts"].items():
        spoken = cohort.replace("_", " ")
        metrics = list(systems["cascade"])
        num_users = systems["cascade"][metrics[0]]["num_users"]
        rows = {name: one[metrics[0]] for name, one in systems.items()}
        if plot := forest(f"{spoken}: {metrics[0]}, {num_users} users", by_system(rows)):
            yield plot
        yield Folded(f"{spoken}, every metric", [system_table(f"{num_users} users", systems)])


def _recalls(report: Mapping[str, Any]) -> Iterator[Block]:
    k = report["protocol"]["config"]["candidate_k"]
    best = best_baseline(report, "candidates", f"recall@{k}")
    for key, (title, of_what) in RECALLS.items():
        cohorts = report[key]
        caption = f"candidates recall@{k} {title}"
        drawn = ["cascade", *([best] if best else [])]
        yield grouped(
            caption, {system_name(one): {name: of["recall"][one] for name, of in cohorts.items()} for one in drawn}
        )
        head = [f"{name} ({cohort[f'num_{of_what}']} {of_what})" for name, cohort in cohorts.items()]
        rows = [
            [system_name(system), *(interval(cohort["recall"][system]) for cohort in cohorts.values())]
            for system in report["systems"]
        ]
        yield Folded(f"{caption}, every system", [Table("", ["system", *head], rows)])
