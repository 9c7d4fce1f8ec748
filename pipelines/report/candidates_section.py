"""The candidate stage alone: merged, and each of its sources, on the validation part and on the test users."""

from __future__ import annotations

from pipelines.report.blocks import Section, Table
from pipelines.report.figures import forest
from pipelines.report.quality_section import system_name, system_table
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import decimal, interval


def sources_section(run: RunRecord) -> Section | None:
    """What training found of the sources; None if there is no retrieval stage yet."""
    metrics = run.metrics("retrieval")
    if not metrics.get("source_recall"):
        return None
    found, weights = metrics["source_recall"], metrics["source_weights"]
    rows = [[name.replace("_", " "), decimal(found[name]), decimal(weights.get(name))] for name in found]
    head = ["source", f"recall@{run.config.retrieval.recall_at}", "weight in the merge"]
    caption = "What each source finds alone, and its weight in the merge"
    return Section("Candidate sources on the validation part", [Table(caption, head, rows)])


def candidates_section(run: RunRecord) -> Section | None:
    """None if `cascade evaluate --stage candidates` was not run."""
    report = run.candidates
    if report is None:
        return None
    metric = f"recall@{report['protocol']['config']['candidate_k']}"
    rows = {_shown(name): one[metric] for name, one in report["systems"].items()}
    plot = forest(f"{metric} of the merged candidates, their sources and the baselines", rows)
    best = [
        [name.replace("_", " "), system_name(one["name"]), interval({"mean": one["recall"]}), interval(one["ratio"])]
        for name, one in report["best_baseline"].items()
    ]
    return Section(
        "Candidates and their sources",
        [
            *([plot] if plot else []),
            Table("Merged over the best baseline, ratio of means", ["baselines", "best", metric, "ratio"], best),
            system_table("By system", {_shown(name): one for name, one in report["systems"].items()}),
        ],
    )


def _shown(name: str) -> str:
    return "Cascade, merged" if name == "merged" else name.replace("source_", "Cascade, ", 1).replace("_", " ")
