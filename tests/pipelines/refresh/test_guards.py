"""Each guard passes and fails at its limit, and what was not measured says why."""

from __future__ import annotations

import pytest

from pipelines.refresh.config import RefreshConfig
from pipelines.refresh.guards import judged


def quality(low: float, high: float, metric: str = "slate ndcg@10", live: float = 0.5, is_better: bool = True) -> dict:
    difference = {"mean": (low + high) / 2, "low": low, "high": high}
    return {metric: {"new": live + difference["mean"], "live": live, "difference": difference} | {
        "higher_is_better": is_better
    }}  # fmt: skip


WARNING = {"severity": "warning", "table": "items", "column": "section", "check": "nulls", "came": "97 %"}
ERROR = WARNING | {"severity": "error"}
GOOD = {
    "drift": [],
    "quality": quality(-0.01, 0.02),
    "calibration": {"new": 1.05, "live": 1.0},
    "coverage": {"new": 80, "live": 100},
    "latency": {"new": 6.0, "live": 5.0},
}


def stopping(changed: dict, **limits) -> list[str]:
    return [guard.name for guard in judged(GOOD | changed, RefreshConfig(**limits)) if guard.stops]


def test_what_is_as_good_passes_everything():
    guards = judged(GOOD, RefreshConfig())
    assert {guard.verdict for guard in guards} == {"passed"}
    assert [guard.kind for guard in guards] == ["drift", "quality", "calibration", "coverage", "latency"]


@pytest.mark.parametrize(
    ("changed", "limits", "stops"),
    [
        ({"quality": quality(-0.05, -0.006)}, {}, True),  # 1 % of .5 is .005
        ({"quality": quality(-0.05, -0.005)}, {}, False),
        ({"quality": quality(-0.05, -0.006)}, {"max_quality_loss": 0.02}, False),
        ({"quality": quality(-0.006, 0.05)}, {"quality_end": "lower"}, True),
        ({"quality": quality(-0.005, 0.05)}, {"quality_end": "lower"}, False),
        ({"quality": quality(-0.01, 0.006, "log loss", is_better=False)}, {}, False),
        ({"quality": quality(0.006, 0.01, "log loss", is_better=False)}, {}, True),
        ({"quality": quality(-0.01, 0.006, "log loss", is_better=False)}, {"quality_end": "lower"}, True),
        ({"quality": quality(-0.5, -0.4, "candidates recall@100")}, {}, False),  # told only
    ],
)
def test_quality_is_held_against_an_end_of_the_interval(changed, limits, stops):
    assert bool(stopping(changed, **limits)) is stops


@pytest.mark.parametrize(
    ("changed", "stops"),
    [
        ({"calibration": {"new": 1.11, "live": 1.0}}, ["calibration"]),
        ({"calibration": {"new": 0.90, "live": 1.0}}, ["calibration"]),
        ({"calibration": {"new": 0.92, "live": 1.0}}, []),
        ({"calibration": {"new": 1.3, "live": 1.4}}, []),  # the live one is further off
        ({"coverage": {"new": 69, "live": 100}}, ["coverage"]),
        ({"coverage": {"new": 70, "live": 100}}, []),
        ({"latency": {"new": 7.6, "live": 5.0}}, ["latency"]),
        ({"latency": {"new": 7.5, "live": 5.0}}, []),
        ({"drift": [ERROR]}, ["drift"]),
        ({"drift": [WARNING]}, []),
    ],
)
def test_the_other_guards_stop_beyond_their_limits(changed, stops):
    assert stopping(changed) == stops


def test_warnings_of_drift_are_named_and_stop_where_they_are_told_to():
    [drift] = [guard for guard in judged(GOOD | {"drift": [WARNING] * 5}, RefreshConfig()) if guard.kind == "drift"]
    assert "items.section nulls: 97 %" in drift.reason and "2 more" in drift.reason
    assert stopping({"drift": [WARNING]}, drift_stops="warning") == ["drift"]


def test_what_was_not_measured_says_why_and_stops_only_where_it_must_be():
    changed = {"latency": None, "unmeasured": {"latency": "there was no time"}}
    [latency] = [guard for guard in judged(GOOD | changed, RefreshConfig()) if guard.kind == "latency"]
    assert (latency.verdict, latency.reason, latency.stops) == ("not measured", "there was no time", False)
    assert stopping(changed, must_be_measured=("latency",)) == ["latency"]
    assert stopping({"quality": quality(float("nan"), float("nan"))}) == ["quality: slate ndcg@10"]
    assert stopping({"quality": quality(float("nan"), float("nan"))}, must_be_measured=()) == []
