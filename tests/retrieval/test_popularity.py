"""Popularity as of a moment, counted by hand; and users as of moments before their interactions."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from features.artifact import Artifact
from features.batches import FeatureTables
from retrieval.aged_state import aged_batches, aged_moments, user_states
from retrieval.popularity import MAX_NUMBERS, NEW, NUM_COORDINATES, NUM_WINDOWS, PopularityTimeline

DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def events(toy_etl: Artifact):
    table = pq.read_table(toy_etl.file("events.parquet"))
    return tuple(table[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))


def counted(etl: Artifact, events, moment: int) -> np.ndarray:
    """[I, P] by hand."""
    _, item, time = events
    known = time[time < etl.metrics["as_of"]]
    span, num_items = known[-1] - known[0] + 1, etl.metrics["num_items"]
    columns = []
    for window in [int(span / 4**number) for number in range(NUM_WINDOWS)]:
        recent = (time < moment) & (time >= moment - window)
        columns.append(np.log1p(np.bincount(item[recent], minlength=num_items)))
    is_new = np.bincount(item[time < moment], minlength=num_items) == 0
    return np.stack([*columns, is_new], axis=1)


@pytest.mark.parametrize("place", [0, 1, 300, 500, 900, -1])
def test_a_moment_counts_the_windows_before_it_and_not_itself(toy_etl: Artifact, events, place: int):
    moment = int(events[2][place])
    found = PopularityTimeline(toy_etl).at(moment).numpy()
    assert found.shape == (32, NUM_COORDINATES) and found.dtype == np.float32
    np.testing.assert_allclose(found, counted(toy_etl, events, moment), rtol=1e-6)


def test_the_windows_shrink_from_the_whole_past_to_the_last_days(toy_etl: Artifact, events):
    found = PopularityTimeline(toy_etl).at(toy_etl.metrics["as_of"]).numpy()[:, :NUM_WINDOWS]
    known = events[2] < toy_etl.metrics["as_of"]
    every = np.bincount(events[1][known], minlength=32)
    np.testing.assert_allclose(np.expm1(found[:, 0]), every, atol=1.5)  # the first hours are too long ago by then
    assert (np.diff(found.sum(0)) < 0).all() and found[:, -1].any()


def test_an_item_is_new_until_somebody_had_it(toy_etl: Artifact, events):
    _, item, time = events
    timeline, first = PopularityTimeline(toy_etl), [int(time[item == one][0]) for one in range(32)]
    for one in (0, 17, int(np.argmax(first))):
        assert timeline.at(first[one])[one, NEW] == 1 and not timeline.at(first[one])[one, :NEW].any()
        assert timeline.at(first[one] + 1)[one, NEW] == 0 and timeline.at(first[one] + 1)[one, 0] > 0
    assert (timeline.at(int(time[0]) - 10**6)[:, NEW] == 1).all()
    assert not timeline.at(int(time[-1]) + 10**9)[:, NEW].any()


def test_equally_many_interactions_lie_between_two_moments(make_etl, toy_logs):
    """Most of the log is of its last day."""
    time = toy_logs.interactions["timestamp"].to_numpy()
    late = np.where(np.arange(len(time)) < len(time) // 10, time // 2, 60 * DAY_SECONDS + np.arange(len(time)) * 60)
    column = toy_logs.interactions.column_names.index("timestamp")
    interactions = toy_logs.interactions.set_column(column, "timestamp", pa.array(np.sort(late)))
    etl = make_etl(replace(toy_logs, interactions=interactions))
    known = pq.read_table(etl.file("events.parquet"))["timestamp"].to_numpy()
    known = known[known < etl.metrics["as_of"]]
    moments = PopularityTimeline(etl, num_moments=11).moment_M
    assert len(moments) == 11 and (moments[0], moments[-1]) == (known[0], known[-1])
    np.testing.assert_allclose(np.diff(np.searchsorted(known, moments)), len(known) / 10, atol=1.5)


def test_each_row_sees_the_last_moment_before_its_own(toy_etl: Artifact):
    timeline = PopularityTimeline(toy_etl, num_moments=5)
    moments = timeline.moment_M
    items = torch.tensor([3, 0, 9])
    asked = torch.tensor([moments[2], moments[2] - 1, moments[4] + 99, moments[0] - 99])
    seen = timeline.before(asked, items)
    assert seen.shape == (4, 3, NUM_COORDINATES)
    for row, moment in enumerate([2, 1, 4, 0]):
        assert torch.equal(seen[row], timeline.at(int(moments[moment]))[items])


def test_a_large_catalogue_has_fewer_moments_and_never_less_than_two(toy_etl: Artifact, monkeypatch):
    assert len(PopularityTimeline(toy_etl).moment_M) == 64 < MAX_NUMBERS
    for max_numbers, expected in ((32 * NUM_COORDINATES * 7, 7), (1, 2)):
        monkeypatch.setattr("retrieval.popularity.MAX_NUMBERS", max_numbers)
        assert len(PopularityTimeline(toy_etl).moment_M) == expected


def test_moments_lie_within_one_validation_period_before_the_interaction(toy_etl: Artifact, events):
    period = toy_etl.metrics["test_from"] - toy_etl.metrics["valid_from"]
    age = events[2] - aged_moments(toy_etl, events[2], seed=0)
    assert age.min() >= 0 and age.max() <= period + 1
    assert abs(age.mean() / period - 0.5) < 0.05


def test_a_users_state_is_what_came_before_the_moment_newest_first(toy_etl: Artifact, events):
    user, item, time = events
    tables = FeatureTables(toy_etl)
    rows, moments = np.array([0, 41, 3]), np.array([time[400], time[700], time[0]])
    state = user_states(toy_etl, tables, rows, moments)
    for place, (row, moment) in enumerate(zip(rows, moments, strict=True)):
        before = item[(user == row) & (time < moment)][::-1]
        expected = tables.items["item_id"][torch.from_numpy(before.copy())]
        assert state["history"][place][: len(before)].tolist() == expected.tolist()
        assert not state["history"][place][len(before) :].any()
    assert state["user_num_events"][2] < state["user_num_events"][1]


def test_the_state_of_serving_is_the_state_at_its_moment(toy_etl: Artifact):
    tables, rows = FeatureTables(toy_etl), np.arange(toy_etl.metrics["num_users"])
    state = user_states(toy_etl, tables, rows, np.full(len(rows), toy_etl.metrics["as_of"]))
    assert torch.equal(state["history"], tables.users["history"])
    assert torch.allclose(state["user_num_events"], tables.users["user_num_events"], atol=1e-6)


def test_batches_show_each_user_as_of_the_examples_moment(toy_etl: Artifact):
    tables = FeatureTables(toy_etl)
    batch = next(aged_batches(toy_etl, tables, [toy_etl.path / "examples/train"], 200, seed=4).epoch(0))
    state = user_states(toy_etl, tables, batch["user_row"].numpy(), batch["moment"].numpy())
    assert torch.equal(batch["history"], state["history"])
    assert (batch["moment"] <= batch["timestamp"]).all()
