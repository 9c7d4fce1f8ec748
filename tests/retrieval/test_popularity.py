"""Popularity as of a moment, counted by hand; and users as of moments before their interactions."""

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from features.artifact import Artifact
from features.batches import FeatureTables
from retrieval.aged_state import aged_batches, aged_moments, user_states
from retrieval.popularity import PopularityTimeline

DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def events(toy_etl: Artifact):
    table = pq.read_table(toy_etl.file("events.parquet"))
    return tuple(table[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))


def test_a_moment_counts_the_window_before_it_and_not_itself(toy_etl: Artifact, events):
    _, item, time = events
    moment = int(time[500])
    recent = (time < moment) & (time >= moment - 28 * DAY_SECONDS)
    expected = np.log1p(np.bincount(item[recent], minlength=32))
    np.testing.assert_allclose(PopularityTimeline(toy_etl).at(moment).numpy(), expected, rtol=1e-6)


def test_each_row_sees_the_last_moment_before_its_own(toy_etl: Artifact, events):
    time = events[2]
    timeline = PopularityTimeline(toy_etl, num_moments=5)
    moments = np.linspace(time[0], time[-1], 5).astype(np.int64)
    items = torch.tensor([3, 0, 9])
    asked = torch.tensor([moments[2], moments[2] - 1, moments[4] + 99, moments[0] - 99])
    seen = timeline.before(asked, items)
    for row, moment in enumerate([2, 1, 4, 0]):
        assert torch.equal(seen[row], timeline.at(int(moments[moment]))[items])


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
