"""Faults put into a made world are named as what they are."""

from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.config import validated
from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.judged_days import JudgedDays, is_named
from pipelines.monitor.made_days import FAULTS, Fault
from pipelines.stages import run_stages

LARGE = {
    "shifted_feature": 1.2,
    "new_category": 0.6,
    "broken_join": 0.8,
    "stale_store": 4.0,
    "popularity_spike": 0.6,
}
"""Sizes that can be told from chance with a hundred users and thirty events a day."""
MIDDLE_WORLD = {
    "data": {
        "synthetic": {"num_users": 1_500, "num_items": 400, "num_interactions": 50_000, "num_days": 330, "seed": 7}
    },
    "retrieval": {"max_epochs": 2, "two_tower": {"embedding_dim": 16, "hidden_units": [32]}},
    "ranking": {"max_epochs": 1, "network": {"embedding_dim": 8}},
    "export": {"num_candidates": 50},
}


@pytest.mark.parametrize("number", [1, 3, 5])
def test_good_days_are_good(judged, number):
    found = judged.judged(number)
    assert found.status == "ok", found.causes


@pytest.mark.parametrize("kind", FAULTS)
def test_a_large_fault_is_the_first_cause(judged, kind):
    fault = replace(judged.days.drawn(kind, 2), size=LARGE[kind])
    found = judged.judged(5, 2, fault)
    assert found.status == "findings" and is_named(found, fault), (fault, found.causes)


def test_ids_in_another_form_are_a_broken_join_too(judged):
    fault = Fault("broken_join", "ids", 0.9)
    assert is_named(judged.judged(4, 1, fault), fault)


def test_a_planted_difference_is_skew_of_that_feature(judged):
    fault = Fault("skew", "user_num_events", 0.2)
    found = judged.judged(4, 1, fault)
    assert is_named(found, fault) and [cause.kind for cause in found.causes] == ["skew"]


@pytest.mark.slow
def test_nine_of_ten_faults_are_named_and_twenty_good_days_have_one_alarm_at_most(tmp_path: Path):
    run = tmp_path / "run"
    run_stages(validated(MIDDLE_WORLD, "MIDDLE_WORLD"), run, say=lambda line: None)
    judged = JudgedDays(run, tmp_path / "stores", 500, MonitorConfig())
    num_days = min(20, judged.days.num_days - 1)
    alarms = {number: judged.judged(number).causes for number in range(1, num_days + 1)}
    assert num_days >= 15 and sum(map(bool, alarms.values())) <= 1, alarms
    for kind in FAULTS:
        faults = {seed: judged.days.drawn(kind, seed) for seed in range(1, 11)}
        found = {seed: judged.judged(2 + 3 * seed % (num_days - 1), seed, fault) for seed, fault in faults.items()}
        missed = {seed: one.causes for seed, one in found.items() if not is_named(one, faults[seed])}
        assert len(missed) <= 1, (kind, missed)
