"""Proposals in the request path: a source that fails, an index of another model, a history that says nothing."""

import json
import shutil
from dataclasses import dataclass, replace

import cloudpickle
import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemble.graph import operators_of
from ensemble.operators.fetch_user_features import FetchUserFeatures
from ensemble.operators.retrieve_candidates import RetrieveCandidates
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from features.schema import UNSEEN
from retrieval.index.identity import ForeignModelError

NO_ITEM = -1
K = 10


@dataclass(frozen=True)
class Broken:
    """A source that cannot answer."""

    name: str

    def propose(self, users, k):
        raise IndexError("row 7 of nothing")


@pytest.fixture(scope="module")
def version(small_run):
    return small_run / "export/repository/cascade/1"


@pytest.fixture(scope="module")
def user_ids(small_run) -> list[str]:
    """The users with the most interactions, then one with none."""
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id", "num_events"]).to_pydict()
    by_activity = np.argsort(-np.array(users["num_events"]), kind="stable")
    assert users["num_events"][by_activity[-1]] == 0
    return [users["raw_id"][place] for place in (*by_activity[:6], by_activity[-1])]


@pytest.fixture
def pipeline(version) -> Pipeline:
    """One of its own, which a test may break."""
    return Pipeline.load(version)


def operator_of(pipeline: Pipeline, kind):
    (operator,) = (one for one in pipeline.operators if isinstance(one, kind))
    return operator


@pytest.fixture
def seen_by(pipeline, monkeypatch):
    """A function that asks the pipeline and returns what RetrieveCandidates added, with the reply."""
    operator, added = operator_of(pipeline, RetrieveCandidates), []
    run = operator.run

    def recorded(columns):
        added.append(run(columns))
        return added[-1]

    monkeypatch.setattr(operator, "run", recorded)

    def ask(users):
        reply = pipeline.recommend(Request.of(users, k=K, with_candidates=True))
        return added[-1], reply

    return ask


def names_of(pipeline: Pipeline) -> list[str]:
    return operator_of(pipeline, RetrieveCandidates).opened_stage.names


def break_sources(pipeline: Pipeline, broken: set[str]) -> None:
    operator = operator_of(pipeline, RetrieveCandidates)
    stage = operator.opened_stage
    sources = tuple(Broken(one.name) if one.name in broken else one for one in stage.sources)
    operator.opened_stage = replace(stage, sources=sources)


@pytest.mark.parametrize("name", ["two_tower", "new_items", "recent_popularity", "covisitation"])
def test_a_source_that_fails_is_counted_and_the_others_go_on(pipeline, seen_by, user_ids, name):
    expected, _ = seen_by(user_ids)
    assert not expected["num_failed_sources"].any()
    break_sources(pipeline, {name})
    found, reply = seen_by(user_ids)
    assert found["num_failed_sources"].tolist() == [1] * len(user_ids)
    place = names_of(pipeline).index(name)
    assert (found["proposed_row"][:, place] == NO_ITEM).all()
    others = [one for one in range(len(names_of(pipeline))) if one != place]
    np.testing.assert_array_equal(found["proposed_row"][:, others], expected["proposed_row"][:, others])
    assert (reply.item_ids != "").all()


def test_everybody_gets_k_items_when_every_source_fails(pipeline, seen_by, user_ids):
    break_sources(pipeline, set(names_of(pipeline)))
    found, reply = seen_by([*user_ids, "stranger"])
    num = len(names_of(pipeline))
    assert found["num_failed_sources"].tolist() == [num] * len(user_ids) + [0]  # nobody proposes to strangers
    assert (reply.item_ids != "").all() and all(len(set(row)) == K for row in reply.item_ids.tolist())
    assert reply.source.tolist() == ["degraded"] * 7 + ["fallback"]


def test_a_history_of_items_unknown_by_now_is_served_as_personal(pipeline, seen_by, user_ids, monkeypatch):
    store = operator_of(pipeline, FetchUserFeatures).opened_store
    read = store.read

    def forgetful(users):
        known = read(users)
        history = known.features["history"]
        return replace(known, features=known.features | {"history": np.where(history == 0, history, UNSEEN)})

    monkeypatch.setattr(store, "read", forgetful)
    found, reply = seen_by(user_ids[:3])
    assert reply.source.tolist() == ["personal"] * 3 and (reply.item_ids != "").all()
    by_name = dict(zip(names_of(pipeline), found["proposed_row"].swapaxes(0, 1), strict=True))
    assert (by_name["covisitation"] == NO_ITEM).all() and (by_name["two_tower"] != NO_ITEM).any(1).all()


def test_the_same_users_are_searched_as_deep_whoever_else_asks_for_more(pipeline, user_ids):
    alone = pipeline.recommend(Request.of(user_ids[:2], k=K, with_candidates=True))
    together = pipeline.recommend(Request.of(user_ids[:4], k=[K, K, 70, 33], with_candidates=True))
    for user in range(2):
        assert [one for one in together.candidate_ids[user].tolist() if one] == [
            one for one in alone.candidate_ids[user].tolist() if one
        ]


def test_an_index_of_another_model_is_refused(version, tmp_path):
    folder = shutil.copytree(version / "ensemble", tmp_path / "ensemble")
    operator = operator_of_pickle(folder)
    operator.load_artifacts(str(folder))
    description = json.loads((folder / "index/index.json").read_text())
    (folder / "index/index.json").write_text(json.dumps(description | {"model": "0" * 64}))
    with pytest.raises(ForeignModelError, match="build the index from the retrieval artifact that serves"):
        operator_of_pickle(folder).load_artifacts(str(folder))


def test_a_query_encoder_of_another_training_is_refused(version, tmp_path):
    folder = shutil.copytree(version / "ensemble", tmp_path / "ensemble")
    with (folder / "query_encoder.onnx").open("ab") as file:
        file.write(b"\0")
    with pytest.raises(ForeignModelError):
        operator_of_pickle(folder).load_artifacts(str(folder))


def operator_of_pickle(folder) -> RetrieveCandidates:
    ensemble = cloudpickle.loads((folder / "ensemble.pkl").read_bytes())
    (operator,) = (one for one in operators_of(ensemble) if isinstance(one, RetrieveCandidates))
    return operator
