"""Sources chosen, fitted and merged: in logs of which it is known which source is right."""

from dataclasses import replace
from functools import partial

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.batches import FeatureTables
from retrieval.candidates import CandidateStage
from retrieval.config import IndexConfig, SourcesConfig
from retrieval.fit_sources import Asked, fit_stage, past_of, refit, stage_of
from retrieval.index import build
from retrieval.metrics import RelevantItems
from retrieval.sources import Covisitation, Past, RepeatPurchase, Users
from retrieval.sources.source import settings_of

NO_ITEM = -1
NUM_ITEMS, NUM_USERS, NUM_ASKED = 60, 300, 80
RECALL_AT = 5
CONFIG = SourcesConfig(linear=0)
"""The linear model knows as well as co-visitation what goes together."""


def log_of(items_of_user, may_repeat: bool = False) -> Past:
    """A past in which every user has these items, one after the other; nobody has the last ten of the catalogue."""
    user = np.repeat(np.arange(NUM_USERS), [len(items) for items in items_of_user])
    item = np.concatenate(items_of_user)
    order = np.random.default_rng(1).permutation(len(user))
    order = order[np.argsort(np.arange(len(user))[order] % 3, kind="stable")]
    time = np.arange(len(user)) * 3_600
    users = {"user_club": np.arange(NUM_USERS) % 3}
    return Past(user[order], item[order], time, NUM_USERS, NUM_ITEMS, users, may_repeat=may_repeat)


def asked(history, taken) -> Asked:
    """Users, with queries that say nothing, who took one item each."""
    num = len(history)
    query_BE = np.random.default_rng(2).normal(size=(num, 4)).astype(np.float32)
    users = Users({"user_club": np.arange(num) % 3}, np.array(history), np.full((num, 1), NO_ITEM), query_BE)
    return Asked(users, RelevantItems.from_pairs(np.arange(num), np.array(taken), num))


@pytest.fixture(scope="module")
def fit():
    """fit_stage over an index whose vectors say nothing."""
    vectors = np.random.default_rng(3).normal(size=(NUM_ITEMS, 4)).astype(np.float32)
    return partial(fit_stage, index=build(vectors, IndexConfig(kind="flat")), recall_at=RECALL_AT, seed=0)


@pytest.fixture(scope="module")
def pairs_log() -> Past:
    """Items come in pairs, 0 with 1, 2 with 3: every user has three pairs."""
    random = np.random.default_rng(0)
    firsts = [random.choice(np.arange(0, 50, 2), 3, replace=False) for _ in range(NUM_USERS)]
    return log_of([np.concatenate([first, first + 1]) for first in firsts])


@pytest.fixture(scope="module")
def pair_seekers() -> Asked:
    """Who had one of a pair takes the other."""
    had = np.random.default_rng(4).choice(50, NUM_ASKED)
    return asked(had[:, None], had ^ 1)


@pytest.fixture(scope="module")
def fitted(fit, pairs_log: Past, pair_seekers: Asked):
    return fit(CONFIG, pairs_log, asked=pair_seekers)


def weight_of(stage: CandidateStage) -> dict[str, float]:
    return dict(zip(stage.names, stage.merge.weights, strict=True))


def test_where_items_come_in_pairs_co_visitation_is_trusted(fitted):
    stage, reports = fitted
    weight = weight_of(stage)
    assert max(weight, key=lambda name: weight[name]) == "covisitation"
    assert reports["covisitation"].recall == 1 and reports["merged"].recall >= 0.95
    assert all(reports[name].recall < 0.5 for name in ("two_tower", "new_items", "recent_popularity"))


def test_where_people_buy_again_repeat_purchase_is_trusted(fit):
    random = np.random.default_rng(5)
    own = [random.choice(50, 2, replace=False) for _ in range(NUM_USERS)]
    past = log_of([np.repeat(items, 4) for items in own], may_repeat=True)
    history = np.array(own[:NUM_ASKED])
    again = asked(np.tile(history, 2), history[np.arange(NUM_ASKED), random.integers(0, 2, NUM_ASKED)])
    stage, reports = fit(CONFIG, past, asked=again)
    weight = weight_of(stage)
    assert max(weight, key=lambda name: weight[name]) == "repeat_purchase"
    assert reports["repeat_purchase"].recall == 1 and reports["merged"].recall == 1


def test_repeats_are_not_proposed_where_they_are_not_to_come_back(fitted):
    assert "repeat_purchase" not in fitted[0].names and "repeat_purchase" not in fitted[1]


def test_every_setting_is_tried_and_the_best_is_taken_the_first_of_equals(fit, pairs_log: Past, pair_seekers: Asked):
    stage, reports = fit(CONFIG, pairs_log, asked=pair_seekers)
    for source in stage.sources[2:]:
        report = reports[source.name]
        assert len(report.trials) == len(source.settings(pairs_log))
        recalls = [trial["recall"] for trial in report.trials]
        assert report.recall == max(recalls)
        first_best = report.trials[int(np.argmax(recalls))]
        assert first_best == report.settings | {"recall": report.recall} and settings_of(source) == report.settings


def test_the_report_names_every_source_and_the_merge(fitted):
    stage, reports = fitted
    assert set(reports) == {*stage.names, "merged"}
    assert all(0 <= report.recall <= 1 for report in reports.values())


def test_equal_arguments_give_an_equal_stage(fit, fitted, pairs_log: Past, pair_seekers: Asked):
    stage, reports = fit(CONFIG, replace(pairs_log), asked=pair_seekers)
    assert stage.merge == fitted[0].merge and reports == fitted[1]


def test_a_quota_of_zero_leaves_a_source_out(fit, pairs_log: Past, pair_seekers: Asked):
    config = SourcesConfig(linear=0, new_items=0, covisitation=0)
    stage, reports = fit(config, pairs_log, asked=pair_seekers)
    assert stage.names == ["two_tower", "recent_popularity"] and set(reports) == {*stage.names, "merged"}
    assert stage.merge.reserved is None


def test_new_items_have_their_share(fitted, pair_seekers: Asked):
    stage, _ = fitted
    assert (stage.merge.reserved, stage.merge.share) == (stage.names.index("new_items"), CONFIG.new_item_share)
    shared = replace(stage, merge=replace(stage.merge, share=0.2)).candidates(pair_seekers.users, 10)
    assert ((shared.row_BK >= 50).sum(1) >= 2).all()


def test_settings_are_tried_on_a_sample_and_the_chosen_ones_fitted_on_all(fit, pairs_log: Past, pair_seekers: Asked):
    config = SourcesConfig(linear=0, max_tuning_interactions=1_000)
    assert len(pairs_log.user_row) > 1_000
    stage, _ = fit(config, pairs_log, asked=pair_seekers)
    for source in stage.sources[2:]:
        expected = type(source)(**settings_of(source)).fit(pairs_log).arrays
        for name, values in source.arrays.items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_settings_are_tried_on_some_of_the_users_with_what_those_took(pair_seekers: Asked):
    assert pair_seekers.sampled(NUM_ASKED, 0) is pair_seekers
    few = pair_seekers.sampled(20, 0)
    assert len(few.users) == few.relevant.num_users == 20
    history, taken = few.users.history_BN[:, 0], few.relevant.item_row
    np.testing.assert_array_equal(few.relevant.user, np.arange(20))
    np.testing.assert_array_equal(taken, history ^ 1)
    assert pair_seekers.sampled(20, 0).users.history_BN.tolist() == few.users.history_BN.tolist()
    assert pair_seekers.sampled(20, 1).users.history_BN.tolist() != few.users.history_BN.tolist()


def test_nobody_to_ask_gives_equal_weights(fit, pairs_log: Past):
    nobody = Asked(
        Users(
            {"user_club": np.empty(0, np.int64)},
            np.empty((0, 3), np.int64),
            np.empty((0, 0), np.int64),
            np.empty((0, 4), np.float32),
        ),
        RelevantItems.from_pairs(np.empty(0, np.int64), np.empty(0, np.int64), 0),
    )
    stage, reports = fit(CONFIG, pairs_log, asked=nobody)
    assert set(stage.merge.weights) == {1.0} and reports["merged"].recall == 0


def test_a_source_that_fails_on_the_validation_users_stops_the_stage(fit, pairs_log, pair_seekers, monkeypatch):
    def fail_in_the_end(self, users, k):
        if k == CONFIG.covisitation:
            raise IndexError("row 7 of nothing")
        return propose(self, users, k)

    propose = Covisitation.propose
    monkeypatch.setattr(Covisitation, "propose", fail_in_the_end)
    with pytest.raises(RuntimeError, match="covisitation"):
        fit(CONFIG, pairs_log, asked=pair_seekers)


def test_refitting_keeps_the_settings_and_learns_the_later_past(fitted, pairs_log: Past):
    stage, _ = fitted
    later = replace(pairs_log, item_row=(pairs_log.item_row + 2) % 50)
    for before, after in zip(stage.sources[2:], refit(stage, later), strict=True):
        assert settings_of(after) == settings_of(before)
        expected = type(before)(**settings_of(before)).fit(later).arrays
        for name, values in after.arrays.items():
            np.testing.assert_array_equal(values, expected[name], err_msg=name)


def test_a_stage_without_a_merge_weighs_all_alike(pairs_log: Past):
    index = build(np.eye(NUM_ITEMS, 4, dtype=np.float32), IndexConfig(kind="flat"))
    stage = stage_of(SourcesConfig(), index, pairs_log, [RepeatPurchase()])
    assert stage.names == ["two_tower", "new_items", "repeat_purchase"]
    assert stage.quotas == (300, 50, 100) and stage.merge.weights == (1.0, 1.0, 1.0)


def test_the_past_ends_before_its_moment(opened):
    etl = opened("etl")
    tables, events = FeatureTables(etl), pq.read_table(etl.file("events.parquet")).to_pandas()
    for moment in (etl.metrics["valid_from"], etl.metrics["as_of"], int(events.timestamp[100])):
        past, known = past_of(etl, tables, SourcesConfig()).before(moment), events[events.timestamp < moment]
        assert past.user_row.tolist() == known.user_row.tolist()
        assert past.item_row.tolist() == known.item_row.tolist()
        assert past.timestamp.tolist() == known.timestamp.tolist()
        assert past.may_repeat is not etl.manifest["config"]["drop_seen"]
        assert "user_id" not in past.users
        assert all(len(values) == past.num_users for values in past.users.values()) and past.users
        assert past.content is not None and past.max_linear_items == SourcesConfig().linear_max_items
