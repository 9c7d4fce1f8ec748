"""Quality of a ranker of impressions beside its baselines, and how well its probabilities are calibrated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pipelines.click_bootstrap import METRICS
from pipelines.report.blocks import Block, Facts, Folded, Note, Section, Table
from pipelines.report.figures import forest, reliability
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import decimal, interval

HEADLINE = "auc"
HIGHER_IS_BETTER = {
    "auc": True,
    "gauc": True,
    "log_loss": False,
    "normalised_entropy": False,
    "calibration_error": False,
}
"""What is neither, as the calibration, which is best at 1, is left out."""


_OF_BIN = ("probability", "click_rate", "low", "high")


def clicks_section(run: RunRecord) -> Section | None:
    """None if the run was not evaluated, or holds no impressions."""
    report = run.evaluation
    if report is None or not run.holds_impressions:
        return None
    level = f"{report['protocol']['level']:.0%}"
    blocks: list[Block] = [Note(report["protocol"]["description"])]
    for metric in known_metrics(report):
        rows = {click_system(name): one[metric] for name, one in report["systems"].items()}
        if plot := forest(f"{spoken_metric(metric)}, with {level} intervals", rows):
            blocks.append(plot)
    blocks.append(_table("By system", report["systems"], report, signed=False))
    blocks.append(_table("Cascade less each, paired by impression", report["cascade_minus"], report, signed=True))
    rows = [
        [click_system(name), one["skipped"] or ", ".join(f"{key} {value}" for key, value in one["settings"].items())]
        for name, one in report["baselines"].items()
    ]
    blocks.append(Folded("how the baselines were tuned", [Table("", ["baseline", "chosen on validation"], rows)]))
    return Section("Quality on the test impressions", blocks)


def calibration_section(run: RunRecord) -> Section | None:
    """None where there are no probabilities, or they were not measured."""
    report = run.evaluation
    if report is None or not run.holds_impressions:
        return None
    curves = report["reliability"]
    own = {click_system(name): one for name, one in curves.items() if name.startswith("cascade")}
    others = {click_system(name): one for name, one in curves.items() if name != "cascade_uncalibrated"}
    by_chance = report["calibration_error_by_chance"]
    rows = [
        [click_system(name), interval(one["calibration_error"]), decimal(by_chance[name]), interval(one["calibration"])]
        for name, one in report["systems"].items()
    ]
    made = report["calibration"]
    bins = [
        [click_system(name), str(number), *map(decimal, row)]
        for name, one in curves.items()
        for number, row in enumerate(zip(*(one[key] for key in _OF_BIN), strict=True), 1)
    ]
    return Section(
        "Calibration",
        [
            Facts([("calibrated by", made["note"] or made["method"])]),
            reliability("share clicked by probability said, bins of equal size, 95% intervals of each bin", own),
            reliability("beside the baselines", others),
            Table("", ["system", "calibration error", "of it by chance", "expected clicks over clicks"], rows),
            Folded("every bin", [Table("", ["system", "bin", *(name.replace("_", " ") for name in _OF_BIN)], bins)]),
        ],
    )


def known_metrics(report: Mapping[str, Any]) -> list[str]:
    return [metric for metric in METRICS if report["systems"]["cascade"][metric]["value"] is not None]


def spoken_metric(metric: str) -> str:
    return metric.upper() if metric.endswith("auc") else metric.replace("_", " ")


def click_system(name: str) -> str:
    return name.replace("cascade_", "Cascade, ").replace("cascade", "Cascade").replace("_", " ")


def best_click_baseline(report: Mapping[str, Any]) -> str | None:
    """The baseline with the highest AUC."""
    values = {
        name: report["systems"][name][HEADLINE]["value"] for name in report["baselines"] if name in report["systems"]
    }
    known = {name: value for name, value in values.items() if value is not None}
    return max(known, key=lambda name: known[name]) if known else None


def _table(caption: str, rows: Mapping[str, Any], report: Mapping[str, Any], signed: bool) -> Table:
    metrics = known_metrics(report)
    minus = "- " if signed else ""
    shown = [
        [minus + click_system(name), *(interval(one[metric], signed) for metric in metrics)]
        for name, one in rows.items()
    ]
    return Table(caption, ["system", *map(spoken_metric, metrics)], shown)
