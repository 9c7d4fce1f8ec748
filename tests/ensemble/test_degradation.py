"""The request path while a part of it is slow or gone: what is served, how late, and how it says so."""

import shutil
import threading
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemble.cache_config import CacheConfig
from ensemble.config import ServingConfig
from ensemble.deadline import DeadlineConfig
from ensemble.operators.encode_query import EncodeQuery
from ensemble.operators.fetch_user_features import FetchUserFeatures
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.operators.score_candidates import ScoreCandidates
from ensemble.pipeline import Pipeline
from ensemble.request import Reply, Request, RequestError
from ensemble.triton_model import Call, TritonPythonModel

K = 10
TIMEOUT_MS = 150
LATE_SECONDS = 0.02
"""How much later than its deadline a reply may come; on a busy machine the best of some attempts counts."""


@pytest.fixture
def version(small_run, tmp_path):
    """A copy of the exported model that a test may break."""
    return shutil.copytree(small_run / "export/repository/cascade/1", tmp_path / "1")


@pytest.fixture
def users(small_run) -> list[str]:
    """Users with a history, the most active first."""
    table = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id", "num_events"])
    order = np.argsort(-table["num_events"].to_numpy(), kind="stable")
    return [table["raw_id"].to_pylist()[row] for row in order[:8]]


@pytest.fixture
def popular(small_run) -> list[str]:
    """Raw item ids, by their popularity."""
    items = pq.read_table(small_run / "etl/items.parquet", columns=["raw_id", "num_recent_events", "num_events"])
    recent, ever = items["num_recent_events"].to_numpy(), items["num_events"].to_numpy()
    return np.array(items["raw_id"].to_pylist(), dtype=object)[np.lexsort((-ever, -recent))].tolist()


def operator(pipeline: Pipeline, kind):
    return next(one for one in pipeline.operators if isinstance(one, kind))


def ask(pipeline: Pipeline, users, timeout_ms: int | None = TIMEOUT_MS, **more) -> Reply:
    return pipeline.recommend(Request.of(users, k=K, timeout_ms=timeout_ms, with_candidates=True, **more))


def slowly(function, seconds: float):
    def run(*arguments, **named):
        time.sleep(seconds)
        return function(*arguments, **named)

    return run


def down(*_, **__):
    raise ConnectionError("the part is down")


def same_slates(first: Reply, second: Reply) -> bool:
    return bool((first.item_ids == second.item_ids).all() and (first.source == second.source).all())


@pytest.fixture
def config() -> ServingConfig:
    return ServingConfig(
        deadlines=DeadlineConfig(store_ms=100, candidates_ms=1_000, ranker_ms=1_000, cool_down_seconds=0.3)
    )


@pytest.fixture
def pipeline(version, config):
    pipeline = Pipeline.load(version, config)
    pipeline.recommend(Request.of(["somebody else"] * 8))
    return pipeline


@pytest.mark.parametrize("trouble", ["slow", "down"])
def test_without_the_ranker_the_candidates_keep_the_order_of_retrieval(pipeline, users, monkeypatch, trouble):
    asked = [*users, "stranger"]
    before = ask(pipeline, asked, timeout_ms=None)
    model = operator(pipeline, ScoreCandidates).opened_model
    monkeypatch.setattr(model, "run", slowly(model.run, 0.5) if trouble == "slow" else down)
    reply = ask(pipeline, asked)
    assert reply.source.tolist() == ["unranked"] * len(users) + ["fallback"]
    assert (reply.candidate_ids == before.candidate_ids).all()
    for row in range(len(users)):
        in_order = [item for item in before.candidate_ids[row] if item]
        slate = [item for item in reply.item_ids[row] if item]
        merged = pipeline.columns(Request.of([users[row]], k=K, with_candidates=True, timeout_ms=TIMEOUT_MS))
        score_of = dict(zip(merged["candidate_ids"][0], merged["retrieval_score"][0], strict=True))
        expected = sorted(in_order, key=lambda item: -score_of[item])[:K]
        assert [score_of[item] for item in slate] == [score_of[item] for item in expected]
        assert len(set(slate)) == K and (np.diff(reply.scores[row]) <= 0).all()
    assert reply.item_ids[-1].tolist() == before.item_ids[-1].tolist()
    monkeypatch.undo()
    time.sleep(0.6)
    assert same_slates(ask(pipeline, asked, timeout_ms=None), before)


@pytest.mark.parametrize("trouble", ["slow", "down"])
def test_without_the_store_users_who_asked_before_are_ranked_as_they_were_known(pipeline, users, monkeypatch, trouble):
    before = ask(pipeline, users, timeout_ms=None)
    store = operator(pipeline, FetchUserFeatures).opened_store
    monkeypatch.setattr(store, "read", slowly(store.read, 0.5) if trouble == "slow" else down)
    mixed = [users[3], "never asked before", users[0]]
    reply = ask(pipeline, mixed, timeout_ms=1_000)
    assert reply.source.tolist() == [before.source[3], "degraded", before.source[0]]
    assert reply.item_ids[0].tolist() == before.item_ids[3].tolist()
    assert reply.item_ids[2].tolist() == before.item_ids[0].tolist()


def test_what_is_remembered_of_a_user_ends(version, users, monkeypatch):
    pipeline = Pipeline.load(version, ServingConfig(cache=CacheConfig(recent_minutes=0.001)))
    ask(pipeline, users, timeout_ms=None)
    monkeypatch.setattr(operator(pipeline, FetchUserFeatures).opened_store, "read", down)
    time.sleep(0.1)
    assert set(ask(pipeline, users, timeout_ms=None).source) == {"degraded"}


def test_a_store_that_hangs_costs_one_request_its_limit_and_the_next_ones_nothing(pipeline, monkeypatch):
    store, release = operator(pipeline, FetchUserFeatures).opened_store, threading.Event()
    read = store.read
    monkeypatch.setattr(store, "read", lambda users: (release.wait(), read(users))[1])
    began = time.monotonic()
    assert ask(pipeline, ["first"], timeout_ms=2_000).source.tolist() == ["degraded"]
    assert time.monotonic() - began >= 0.1
    began = time.monotonic()
    for number in range(20):
        assert ask(pipeline, [f"later {number}"], timeout_ms=2_000).source.tolist() == ["degraded"]
    assert time.monotonic() - began < 20 * 0.05
    release.set()
    time.sleep(0.4)
    assert ask(pipeline, ["after"], timeout_ms=2_000).source.tolist() == ["fallback"]


@pytest.mark.parametrize("trouble", ["slow", "down"])
def test_without_candidate_sources_users_get_what_was_ranked_for_them_before_else_popular_items(
    pipeline, users, popular, monkeypatch, trouble
):
    asked_before, others = users[:3], users[3:]
    before = ask(pipeline, asked_before, timeout_ms=None)
    break_sources(pipeline, monkeypatch, lambda one: slowly(one.propose, 0.5) if trouble == "slow" else down)
    excluded = [*popular[:3], *before.item_ids[0, :2]]
    reply = ask(pipeline, users, exclude=[excluded] * len(users))
    assert reply.source.tolist() == ["cached"] * 3 + ["degraded"] * len(others)
    for row in range(len(users)):
        slate = reply.item_ids[row].tolist()
        assert set(slate).isdisjoint(excluded) and len(set(slate)) == K
        assert (np.diff(reply.scores[row]) <= 0).all()
        best = [item for item in before.ranked_ids[row] if item not in excluded] if row < 3 else popular
        assert slate == [item for item in best if item in slate][:K]


class _Source:
    """A candidate source with another `propose`."""

    def __init__(self, name, propose) -> None:
        self.name, self.propose = name, propose


def break_sources(pipeline: Pipeline, monkeypatch, broken, names=None) -> None:
    """Give each of the sources, or those named, the `propose` that a function makes of it."""
    retrieve = operator(pipeline, RetrieveCandidates)
    stage = retrieve.opened_stage
    sources = [_Source(one.name, broken(one)) if names is None or one.name in names else one for one in stage.sources]
    monkeypatch.setattr(retrieve, "opened_stage", replace(stage, sources=tuple(sources)))


def test_a_source_that_hangs_costs_its_own_proposals_and_one_request_the_limit(version, users, monkeypatch):
    limits = DeadlineConfig(default_ms=5_000, candidates_ms=100)
    pipeline, release = Pipeline.load(version, ServingConfig(deadlines=limits)), threading.Event()
    expected = pipeline.columns(Request.of(users, k=K))
    names = operator(pipeline, RetrieveCandidates).opened_stage.names
    hanging = names.index("covisitation")
    others = [place for place in range(len(names)) if place != hanging]
    break_sources(pipeline, monkeypatch, lambda _: lambda *_: release.wait(), ["covisitation"])
    took = []
    for _ in range(5):
        began = time.monotonic()
        found = pipeline.columns(Request.of(users, k=K, timeout_ms=5_000))
        took.append(time.monotonic() - began)
        assert (found["num_failed_sources"] == 1).all() and (found["source"] == expected["source"]).all()
        np.testing.assert_array_equal(found["proposed_row"][:, others], expected["proposed_row"][:, others])
        assert (found["proposed_row"][:, hanging] == -1).all()
    assert took[0] >= 0.1 > min(took[1:])
    release.set()


def test_a_request_without_time_gets_what_is_there_at_once(pipeline, users):
    reply = ask(pipeline, users, timeout_ms=1)
    assert set(reply.source) <= {"personal", "unranked", "degraded"}
    assert ((reply.item_ids != "").sum(1) == K).all()


def test_a_deadline_that_is_kept_changes_nothing(pipeline, users):
    without = ask(pipeline, users, timeout_ms=None)
    assert same_slates(ask(pipeline, users, timeout_ms=60_000), without)
    assert set(without.source) == {"personal"}


@pytest.mark.parametrize("kind", [FetchUserFeatures, RetrieveCandidates, ScoreCandidates])
def test_a_reply_is_in_time_whichever_part_is_slow(pipeline, users, monkeypatch, kind):
    one = operator(pipeline, kind)
    if kind is RetrieveCandidates:
        break_sources(pipeline, monkeypatch, lambda source: slowly(source.propose, 0.4))
    else:
        part, name = (one.opened_store, "read") if kind is FetchUserFeatures else (one.opened_model, "run")
        monkeypatch.setattr(part, name, slowly(getattr(part, name), 0.4))
    late = []
    for _ in range(5):
        began = time.monotonic()
        reply = ask(pipeline, [*users, "stranger"])
        late.append(time.monotonic() - began - TIMEOUT_MS / 1e3)
        assert ((reply.item_ids != "").sum(1) == K).all()
        assert not {"unranked", "degraded", "cached"}.isdisjoint(reply.source)
        time.sleep(0.5)  # the call that was left behind ends
    assert min(late) < LATE_SECONDS


def test_a_run_that_fails_as_a_whole_is_answered_all_the_same_and_a_refusal_stays_one(pipeline, users, monkeypatch):
    before = ask(pipeline, users[:2], timeout_ms=None)
    model = TritonPythonModel()
    model.pipeline, model.request_log = pipeline, None
    monkeypatch.setattr(operator(pipeline, EncodeQuery), "run", down)
    calls = [
        Call(user, None, request=Request.of([user], k=K, exclude=[before.item_ids[0, :1]]))
        for user in (*users[:2], "new")
    ]
    model._answer(calls)
    replies = [call.answer for call in calls if isinstance(call.answer, Reply)]
    assert [reply.source[0] for reply in replies] == ["cached", "cached", "degraded"]
    assert replies[0].item_ids[0, : K - 1].tolist() == before.item_ids[0, 1:].tolist()
    assert all(before.item_ids[0, 0] not in reply.item_ids and (reply.item_ids != "").all() for reply in replies)

    def refuse(*_):
        raise RequestError("k row 0")

    monkeypatch.setattr(operator(pipeline, EncodeQuery), "run", refuse)
    model._answer(calls[:1])
    assert isinstance(calls[0].answer, RequestError)
