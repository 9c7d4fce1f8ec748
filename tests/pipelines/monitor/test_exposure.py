"""What is shown, counted by hand; spikes of events; clicks and what the scores promise."""

import math
from dataclasses import replace

import numpy as np
import pytest

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.exposure import by_day, exposure, exposure_findings
from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.outcomes import outcome_findings, outcomes
from pipelines.monitor.reference import Reference
from pipelines.monitor.spike import item_spikes

DAY = 86_400


def requests(slates, users=None, received=None, scores=None) -> LoggedRequests:
    size = len(slates)
    nan_B = np.full(size, np.nan)
    return LoggedRequests(
        received_B=np.arange(size) if received is None else np.asarray(received),
        as_of_B=np.zeros(size, np.int64),
        user_id=[f"u{row}" for row in range(size)] if users is None else users,
        source=["personal"] * size,
        features={},
        removed={},
        num_proposed={},
        proposed_share={},
        mean_score_B=nan_B,
        top_score_B=nan_B,
        slate_ids=slates,
        slate_scores=scores or [[0.0] * len(slate) for slate in slates],
    )


def reference(of: LoggedRequests, share=None) -> Reference:
    return Reference(of, 0.0, share or {}, "made by hand")


def test_exposure_by_hand():
    shown = requests([["a", "b"], ["a", "c"], ["a", "b"]], users=["u", "v", "u"])
    found = exposure(shown, {"a": 0.5, "b": 0.25}, num_catalogue=4)
    assert found.num_items == 3 and found.coverage == 0.75
    assert (found.top_item, found.top_share) == ("a", 0.5)
    assert found.novelty == pytest.approx((3 * 1 + 2 * 2 + 1 * 3) / 6), "c had none: half of the rarest"
    assert found.repetition == 1.0 and found.num_repeated == 1
    assert found.own_variety == pytest.approx((2 / 4 + 2 / 2) / 2)
    counts = np.array([0, 1, 2, 3])
    assert found.gini == pytest.approx(np.abs(counts[:, None] - counts).sum() / (2 * 4 * counts.sum()))
    nothing = exposure(requests([]), {}, 4)
    assert nothing.coverage == 0 and math.isnan(nothing.repetition)


def test_days_are_those_of_utc():
    assert [(day, rows.tolist()) for day, rows in by_day(requests([["a"]] * 3, received=[DAY - 1, DAY, DAY + 5]))] == [
        ("1970-01-01", [0]),
        ("1970-01-02", [1, 2]),
    ]


def test_one_slate_for_everybody_is_less_coverage_and_one_item_everywhere_is_a_spike():
    varied = requests([[f"i{row}", f"j{row}"] for row in range(200)])
    alike = requests([["x", f"i{row % 3}"] for row in range(200)])
    found = list(exposure_findings(reference(varied), None, alike, 1_000, MonitorConfig()))
    assert [(one.check, one.subject) for one in found] == [("coverage", ""), ("shown_spike", "x")]
    assert not list(exposure_findings(reference(varied), None, varied, 1_000, MonitorConfig()))


def test_slates_that_repeat_more_than_before_are_found():
    users = [f"u{row % 150}" for row in range(300)]
    new = requests([[f"i{row}", f"j{row}"] for row in range(300)], users=users)
    again = requests([[f"i{row % 150}", f"j{row % 150}"] for row in range(300)], users=users)
    earlier = exposure(new, {}, 1_000)
    found = list(exposure_findings(reference(again), earlier, again, 1_000, MonitorConfig()))
    assert [(one.check, one.now) for one in found] == [("repetition", 1.0)]


def test_a_spike_of_events_is_named_and_the_chance_of_few_is_not():
    config, base = MonitorConfig(), reference(requests([]), {f"i{row}": 0.01 for row in range(100)})
    rng = np.random.default_rng(1)

    def events(num_others: int, num_spike: int) -> list[LaterEvent]:
        others = [LaterEvent("u", f"i{item}", 100, {}) for item in rng.integers(0, 100, num_others)]
        return others + [LaterEvent("u", "new", 100, {})] * num_spike

    assert [one.subject for one in item_spikes(events(900, 100), 0, 200, base, config)] == ["new"]
    assert not list(item_spikes(events(900, 100), 101, 200, base, config)), "not in the window"
    assert not list(item_spikes(events(1_000, 0), 0, 200, base, config))
    assert not list(item_spikes(events(8, 1), 0, 200, base, config)), "one of nine"


def clicks_of(rate_before: float, rate_now: float, seed: int = 1):
    """Eleven days of 200 slates with two places each, the last of which nothing is known, and their events."""
    rng = np.random.default_rng(seed)
    received = np.repeat(np.arange(11) * DAY, 200) + np.tile(np.arange(200), 11)
    log = requests([["a", "b"]] * len(received), received=received, scores=[[1.0, 0.0]] * len(received))
    rate = np.where(received < 9 * DAY, rate_before, rate_now)
    users = [f"u{row}" for row in range(len(received))]
    log = replace(log, user_id=users)
    happened = np.flatnonzero(rng.random(len(received)) < rate)
    events = [LaterEvent(users[row], "a", int(received[row]) + 60, {}) for row in happened]
    events.append(LaterEvent("somebody", "c", int(received[-1]), {}))
    return log, events


@pytest.mark.parametrize(
    ("rate_now", "checks"), [(0.1, []), (0.04, ["ctr", "calibration"]), (0.25, ["ctr", "calibration"])]
)
def test_a_change_of_clicks_is_found_in_the_newest_day_that_is_over(rate_now, checks):
    config = MonitorConfig()
    log, events = clicks_of(0.1, rate_now)
    found = outcomes(log, events, float(log.received_B.max()) + 1, config)
    assert log.received_B[found.window_B].min() >= 9 * DAY - 200 and not found.is_known_B[-100:].any()
    assert [one.check for one in outcome_findings(found, config)] == checks


def test_what_scores_promise_is_as_much_as_was_clicked():
    log, events = clicks_of(0.1, 0.1)
    found = outcomes(log, events, float(log.received_B.max()) + 1, MonitorConfig())
    assert found.expected_Bk is not None
    before = ~found.window_B & found.is_known_B
    assert found.expected_Bk[before].sum() == pytest.approx(found.reward_Bk[before].sum(), rel=0.01)
    assert found.expected_Bk[0, 0] > 10 * found.expected_Bk[0, 1]


def test_with_few_clicks_before_nothing_is_said():
    log, events = clicks_of(0.005, 0.2)
    found = outcomes(log, events, float(log.received_B.max()) + 1, MonitorConfig())
    assert found.expected_Bk is None and not list(outcome_findings(found, MonitorConfig()))
