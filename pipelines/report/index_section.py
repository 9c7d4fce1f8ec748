"""The index: what it is, how much it finds, how fast, and what else was tried."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.report.blocks import Block, Facts, Note, Section, Table
from pipelines.report.figures import curves
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import count, decimal, memory, number


def index_section(run: RunRecord) -> Section | None:
    """None if there is no index."""
    metrics = run.metrics("index")
    if not metrics:
        return None
    return Section("Index", [Facts(list(_facts(metrics))), *_tried(metrics, run.config.index.recall_target)])


def _facts(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    yield "kind", metrics["kind"] + ("" if metrics["kind"] != "flat" else ", exact search")
    if metrics["parameters"]:
        yield "searches", _parameters(metrics["parameters"])
    yield "vectors", f"{count(metrics['num_vectors'])} of {metrics['dim']} numbers, {memory(metrics['bytes'])}"
    if metrics["num_queries"]:
        on = f"on {count(metrics['num_queries'])} queries of {metrics['measured_on']} that did not set the breadth"
        yield "recall@100 against exact search", f"{decimal(metrics['recall_at_100_against_exact'])}, {on}"
        yield "speed over exact search", f"{metrics['speedup_over_exact']:.1f} times, one query at a time on one thread"
    else:
        yield "recall@100 against exact search", f"{decimal(metrics['recall_at_100_against_exact'])} by definition"
    if not metrics["reached"]:
        yield "target", "no index reached it: the catalogue is searched exactly"


def _tried(metrics: Mapping[str, Any], target: float) -> Iterator[Block]:
    tried = metrics.get("tried")
    if not tried:
        if metrics["num_queries"]:
            yield Note("The settings that were tried are not recorded; `cascade index` made again would.")
        return
    kinds = dict.fromkeys(one["kind"] for one in tried)
    lines = {
        kind: sorted(
            (one["speedup_over_exact"], one["recall_at_100_against_exact"]) for one in tried if one["kind"] == kind
        )
        for kind in kinds
    }
    plot = curves(
        "recall@100 by times the speed of exact search, the settings tried", lines, "times exact search's speed"
    )
    if plot:
        yield plot
    rows = [
        [
            f"{one['kind']}, {_parameters(one['parameters'])}",
            decimal(one["recall_at_100_against_exact"]),
            decimal(one["least_recall"]),
            f"{one['speedup_over_exact']:.1f}",
        ]
        for one in tried
    ]
    caption = f"From narrow to broad, until the recall less two standard errors reaches the target {number(target)}"
    yield Table(caption, ["setting", "recall@100", "less two errors", "times exact's speed"], rows)


def _parameters(parameters: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {number(value)}" for name, value in parameters.items())
