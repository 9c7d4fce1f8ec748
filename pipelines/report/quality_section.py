"""Quality as served, beside the tuned baselines: each stage, differences, and what was promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.report.blocks import Block, Facts, Folded, Note, Section, Table
from pipelines.report.figures import forest
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import count, interval

STAGES = ("slate", "ranked", "candidates")
OWN = "Cascade"
MORE_IS_BETTER = ("recall", "ndcg", "mrr", "map", "hit_rate")
"""Metrics of which more is better, whatever their cut-off; of novelty, coverage and gini nobody can say."""
Report = Mapping[str, Any]


def quality_section(run: RunRecord) -> Section | None:
    """None if the run was not evaluated, or holds impressions."""
    report = run.evaluation
    if report is None or run.holds_impressions:
        return None
    return Section("Quality on the test users", [*_figures(report), *_tables(report), _promised(report)])


def headlines(report: Report) -> tuple[tuple[str, str], tuple[str, str]]:
    """Stage and metric of what counts most."""
    cut = report["protocol"]["config"]
    return ("slate", f"ndcg@{cut['slate_k']}"), ("candidates", f"recall@{cut['candidate_k']}")


def best_baseline(report: Report, stage: str, metric: str) -> str | None:
    """The baseline with the highest mean; None if none ran."""
    means = {name: report["systems"][name][stage][metric]["mean"] for name in baselines(report)}
    return max(means, key=lambda name: means[name] or 0.0) if means else None


def baselines(report: Report) -> list[str]:
    return [name for name in report["systems"] if name in report["baselines"]]


def system_name(name: str) -> str:
    if name == "unranked":
        return "Cascade, unranked"
    return OWN if name == "cascade" else name.replace("_", " ")


def by_system(values: Mapping[str, Any]) -> dict[str, Any]:
    """The same under the names shown, the best first."""
    return {system_name(name): values[name] for name in sorted(values, key=lambda one: -(values[one]["mean"] or 0.0))}


def _figures(report: Report) -> Iterator[Block]:
    level = f"{report['protocol']['config']['level']:.0%}"
    yield Note(report["protocol"]["description"])
    for stage, metric in headlines(report):
        rows = {name: stages[stage][metric] for name, stages in report["systems"].items() if stage in stages}
        if plot := forest(f"{stage} {metric}, with {level} intervals", by_system(rows)):
            yield plot
    for stage, metric in headlines(report):
        rows = {f"- {system_name(name)}": one[f"{stage} {metric}"] for name, one in report["cascade_minus"].items()}
        if plot := forest(f"Cascade's {stage} {metric} less that of each, paired by user", rows, zero=True):
            yield plot


def _tables(report: Report) -> Iterator[Block]:
    for stage in STAGES:
        systems = {name: stages[stage] for name, stages in report["systems"].items() if stage in stages}
        yield system_table(f"{stage}, by system", systems)
    differences = report["cascade_minus"]
    names = list(next(iter(differences.values()), {}))
    rows = [
        [f"- {system_name(name)}", *(interval(one[metric], signed=True) for metric in names)]
        for name, one in differences.items()
    ]
    yield Table("Cascade less each, paired by user", ["system", *names], rows)
    ratios = report["ranked_over_unranked"]
    yield Table(
        "Slate as ranked over retrieval's own order, ratio of means",
        ["metric", "ratio"],
        [[name, interval(one)] for name, one in ratios.items()],
    )
    yield Folded("how the baselines were tuned", [_tuning(report)])


def system_table(caption: str, systems: Mapping[str, Mapping[str, Any]]) -> Table:
    """A row a system, a column a metric."""
    names: Sequence[str] = list(next(iter(systems.values())))
    rows = [[system_name(system), *(interval(one.get(name)) for name in names)] for system, one in systems.items()]
    return Table(caption, ["system", *names], rows)


def _tuning(report: Report) -> Table:
    rows = []
    for name, one in report["baselines"].items():
        settings = one["skipped"] or "; ".join(
            f"{stage}: {', '.join(f'{key} {value}' for key, value in chosen.items()) or 'nothing to set'}"
            for stage, chosen in one["settings"].items()
        )
        rows.append([system_name(name), settings, str(len(one["trials"])), f"{one['seconds']:.1f}"])
    return Table("", ["baseline", "chosen on validation", "trials", "seconds"], rows)


def _promised(report: Report) -> Facts:
    served = report["served"]
    sources = ", ".join(f"{name} {count(users)}" for name, users in served["sources"].items())
    return Facts(
        [
            ("test users served as", sources),
            ("slates that came short", count(served["short_slates"])),
            ("items in slates that their user already had", count(served["seen_items_in_slates"])),
        ]
    )
