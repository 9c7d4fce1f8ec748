"""What was measured, judged: each guard passes, fails, or was not measured and says why."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.refresh.config import RefreshConfig
from pipelines.refresh.record import Guard, Verdict

_DRIFT_SHOWN = 3
_JUDGED = ("slate ndcg", "auc", "log loss")
"""Metrics whose loss stops a refresh; others are told."""


def judged(measured: Mapping[str, Any], config: RefreshConfig) -> list[Guard]:
    """Every guard, in the order in which they are shown.

    Args:
        measured: `drift` always; `quality`, `calibration`, `latency`, `coverage` as far as they could be measured, and
            under `unmeasured` why the others could not.
    """
    unmeasured = measured.get("unmeasured", {})
    guards: list[Guard] = []
    for kind, judge in (
        ("drift", _drift),
        ("quality", _quality),
        ("calibration", _calibration),
        ("coverage", _coverage),
        ("latency", _latency),
    ):
        if measured.get(kind) is not None:
            guards += judge(measured[kind], config)
        else:
            stops = kind in config.must_be_measured
            needed = "needed: refresh.must_be_measured" if stops else "not needed"
            reason = unmeasured.get(kind, "an earlier guard stopped it")
            guards.append(Guard(kind, "not measured", "", needed, stops, reason))
    return guards


def _drift(found: Sequence[Mapping[str, Any]], config: RefreshConfig) -> Iterator[Guard]:
    counts = {level: sum(one["severity"] == level for one in found) for level in ("error", "warning")}
    num = counts["error"] + (counts["warning"] if config.drift_stops == "warning" else 0)
    told = [one for one in found if one["severity"] != "info"]
    named = [f"{one['table']}.{one['column']} {one['check']}: {one['came']}".replace(". ", " ") for one in told]
    more = f"; and {len(named) - _DRIFT_SHOWN} more in etl/drift.json" if len(named) > _DRIFT_SHOWN else ""
    measured = f"{counts['error']} errors, {counts['warning']} warnings"
    limit = "no error" if config.drift_stops == "error" else "no error, no warning"
    yield _guard("drift", num == 0, measured, limit, "; ".join(named[:_DRIFT_SHOWN]) + more)


def _quality(found: Mapping[str, Any], config: RefreshConfig) -> Iterator[Guard]:
    for metric, one in found.items():
        is_better, difference, live = one["higher_is_better"], one["difference"], one["live"]
        measured = (
            f"{one['new']:.4f}, live {live:.4f}: {difference['mean']:+.4f} "
            f"[{_number(difference['low'])}, {_number(difference['high'])}]"
        )
        if not metric.startswith(_JUDGED):
            yield Guard(f"quality: {metric}", "passed", measured, "told only", False)
            continue
        allowed = config.max_quality_loss * abs(live)
        best, worst = (difference["high"], difference["low"]) if is_better else (difference["low"], difference["high"])
        end = best if config.quality_end == "upper" else worst
        side = ("upper" if (config.quality_end == "upper") == is_better else "lower") + " end"
        limit = f"{side} {'>=' if is_better else '<='} {-allowed if is_better else allowed:+.4f}"
        if end is None or math.isnan(end):
            stops = "quality" in config.must_be_measured
            yield Guard(f"quality: {metric}", "not measured", measured, limit, stops, "there is no interval")
        else:
            fine = end >= -allowed if is_better else end <= allowed
            yield _guard(f"quality: {metric}", fine, measured, limit)


def _calibration(found: Mapping[str, Any], config: RefreshConfig) -> Iterator[Guard]:
    new, live = found["new"], found["live"]
    allowed = max(math.log1p(config.max_miscalibration), abs(math.log(live)) if live > 0 else math.inf)
    fine = new > 0 and abs(math.log(new)) <= allowed
    low, high = (math.exp(sign * allowed) for sign in (-1, 1))
    measured = f"expected over actual clicks {new:.3f}, live {live:.3f}"
    yield _guard("calibration", fine, measured, f"{low:.3f} to {high:.3f}")


def _coverage(found: Mapping[str, Any], config: RefreshConfig) -> Iterator[Guard]:
    ratio = found["new"] / found["live"] if found["live"] else math.inf
    measured = f"{found['new']} items, live {found['live']}: {ratio:.2f}"
    yield _guard("coverage", ratio >= config.min_coverage_ratio, measured, f">= {config.min_coverage_ratio:g}")


def _latency(found: Mapping[str, Any], config: RefreshConfig) -> Iterator[Guard]:
    ratio = found["new"] / found["live"]
    measured = f"p50 {found['new']:.1f} ms, live {found['live']:.1f} ms: {ratio:.2f}"
    yield _guard("latency", ratio <= config.max_latency_ratio, measured, f"<= {config.max_latency_ratio:g}")


def _guard(name: str, fine: bool, measured: str, limit: str, reason: str = "") -> Guard:
    verdict: Verdict = "passed" if fine else "failed"
    return Guard(name, verdict, measured, limit, not fine, reason)


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:+.4f}"
