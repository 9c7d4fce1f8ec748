"""The skew check against real stores: silent without a difference, and right about the one that was planted."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.made_days import Fault
from pipelines.monitor.offline_features import OfflineFeatures
from pipelines.monitor.skew import Skew, skew_of

DAY = 86_400


def found_on(judged, number: int, fault: Fault | None = None) -> Skew:
    day = judged.days.day(number, 1, fault)
    return skew_of(LoggedRequests.of(day.log), OfflineFeatures(judged.days.run, day.events), day.events)


@pytest.mark.parametrize("number", [1, 5])
def test_it_is_silent_while_the_store_gets_every_event(judged, number):
    skew = found_on(judged, number)
    assert skew.num_compared == 200 and skew.num_differing == skew.num_behind == skew.num_late == 0
    assert not skew.differing and not skew.examples


@pytest.mark.parametrize("feature", ["user_num_events", "user_age"])
def test_one_planted_feature_is_named_with_both_values(judged, feature):
    skew = found_on(judged, 4, Fault("skew", feature, 0.3))
    assert list(skew.differing) == [feature] and 0 < skew.differing[feature] == skew.num_differing < 200
    assert skew.num_behind == 0
    example = skew.examples[feature][0]
    logged, recomputed = example["logged"], example["recomputed"]
    assert isinstance(logged, float) and isinstance(recomputed, float)
    assert logged == pytest.approx(recomputed + 0.25, abs=1e-5)


def test_a_store_that_is_behind_differs_in_nothing_and_the_lag_is_that_of_the_oldest_missing_event(judged):
    day = judged.days.day(6, 1, Fault("stale_store", "", 3.0))
    requests = LoggedRequests.of(day.log)
    skew = skew_of(requests, OfflineFeatures(judged.days.run, day.events), day.events)
    assert not skew.differing and skew.num_behind > 0
    known_to = judged.days.as_of + 3 * DAY
    for row, lag in enumerate(skew.lag_seconds):
        moment = requests.received_B[row]
        missing = [
            event.timestamp
            for event in day.events
            if event.user_id == requests.user_id[row] and known_to <= event.timestamp < moment
        ]
        assert lag == (moment - min(missing) if missing else 0)


def test_users_whose_events_came_out_of_order_are_left_out(judged):
    day = judged.good_day(3)
    requests = LoggedRequests.of(day.log)
    user, moment = requests.user_id[0], int(requests.received_B[0])
    item = day.events[0].item_id
    late = [LaterEvent(user, item, moment - 5_000, {}, moment + 1_000), LaterEvent(user, item, moment - 4_000, {}, 1)]
    skew = skew_of(requests, OfflineFeatures(judged.days.run, day.events), late)
    assert skew.num_late == requests.user_id.count(user)
    in_order = [replace_received(event, moment - 4_900) for event in late]
    assert skew_of(requests, OfflineFeatures(judged.days.run, day.events), in_order).num_late == 0


def replace_received(event: LaterEvent, received: int) -> LaterEvent:
    return event._replace(received=received)


def test_replies_that_came_to_no_features_are_not_compared(judged):
    day = judged.good_day(2)
    features = day.log.schema.get_field_index("features")
    kept = pa.chunked_array([day.log["features"].combine_chunks().slice(0, 50)])
    nulls = pa.nulls(len(day.log) - 50, day.log["features"].type)
    log = day.log.set_column(features, "features", pa.chunked_array([*kept.chunks, nulls]))
    requests = LoggedRequests.of(log)
    offline = OfflineFeatures(judged.days.run, day.events)
    assert skew_of(requests, offline).num_compared == 50
    unknown = replace(requests, source=["fallback"] * len(requests))
    assert skew_of(unknown, offline).num_compared == 0


def test_lists_of_another_length_differ(judged):
    requests = LoggedRequests.of(judged.good_day(2).log)
    shorter = replace(requests, features=dict(requests.features) | {"history": requests.features["history"][:, :3]})
    skew = skew_of(shorter, OfflineFeatures(judged.days.run, judged.good_day(2).events))
    assert skew.differing == {"history": 200}
    assert np.all(skew.lag_seconds == 0)
