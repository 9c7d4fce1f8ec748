"""The whole request path in process: what is served, held against computations that do not use it."""

import shutil
import time

import cloudpickle
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from merlin.table import TensorTable
from pydantic import TypeAdapter
from safetensors.numpy import load_file as load_numpy_file
from safetensors.torch import load_file

from ensemble.cache_config import CacheConfig
from ensemble.catalogue import array_of
from ensemble.config import ServingConfig
from ensemble.graph import operators_of
from ensemble.operators.score_candidates import ScoreCandidates
from ensemble.pipeline import Pipeline, columns_of
from ensemble.request import MAX_K, Request, join
from ensemble.trace import Trace
from features.artifact import ArtifactError, open_artifact
from features.as_of import raw_interactions
from features.etl import as_of_features
from features.history import EventLog
from features.list_column import matrix_of
from features.schema import FIRST_KNOWN, load_schema
from features.workflow import load_workflow, transform
from ranking.config import RankingConfig
from ranking.pair_features import (
    NUM_WINDOWS,
    RETRIEVAL_ONLY,
    RETRIEVAL_SCORE,
    TWO_TOWER_SCORE,
    attribute_names,
    is_per_candidate,
    number_names,
    ranker_schema,
    source_feature,
)
from ranking.ranker import Ranker
from ranking.taste import affinities, attributes_at, in_demand, relative_numbers, similarities
from retrieval.candidates import load_merge, source_names
from retrieval.popularity import PopularityTimeline
from retrieval.sources import FITTED, Users

NO_ITEM = -1
NUM_CANDIDATES = 20
FIELDS = ("item_ids", "scores", "propensities", "source", "candidate_ids", "ranked_ids")
STRANGERS = ["stranger", "customer-000001 ", "\U0001f600", "0"]
DAY = 86_400
SEALED = [
    "ensemble.pkl",
    "ranker.onnx",
    "query_encoder.onnx",
    "index/index.faiss",
    "index/index.json",
    "sources/merge.json",
    "sources/covisitation.safetensors",
    "items.parquet",
]
"""Files of the exported model whose bytes are checked."""


class World:
    """A run's artifacts, read without the request path."""

    def __init__(self, run):
        self.version = run / "export/repository/cascade/1"
        self.etl = open_artifact(run / "etl", "etl")
        self.retrieval = open_artifact(run / "retrieval", "retrieval")
        self.ranking = open_artifact(run / "ranking", "ranking")
        self.sources = source_names(self.retrieval.file("sources/merge.json").parent)
        self.users = pq.read_table(self.etl.file("users.parquet"))
        self.items = pq.read_table(self.etl.file("items.parquet"))
        self.user_ids = self.users["raw_id"].to_pylist()
        self.item_ids = np.array(self.items["raw_id"].to_pylist(), dtype=object)
        self.as_of = self.etl.metrics["as_of"]
        events = pq.read_table(self.etl.file("events.parquet"))
        self.log = EventLog.from_events(events, before=self.as_of)
        known = events["timestamp"].to_numpy() < self.as_of
        self.events = {name: events[name].to_numpy()[known] for name in ("user_row", "item_row", "timestamp")}
        self.num_events = np.bincount(self.events["user_row"], minlength=len(self.users))

    def seen(self, user_row):
        return set(self.events["item_row"][self.events["user_row"] == user_row].tolist())

    def most_active(self, number):
        return np.argsort(-self.num_events, kind="stable")[:number].tolist()


@pytest.fixture(scope="module")
def world(small_run):
    return World(small_run)


@pytest.fixture(scope="module")
def pipeline(world):
    return Pipeline.load(world.version)


@pytest.fixture
def own_version(world, tmp_path):
    """A copy of the exported model that a test may break."""
    return shutil.copytree(world.version, tmp_path / "1")


def ids(row):
    return [item for item in row.tolist() if item]


def mixed_request(world, num_users=64):
    """Users of all kinds, some twice, with their own k, exclude list and time."""
    rng = np.random.default_rng(1)
    users = [*rng.choice(world.user_ids, num_users - len(STRANGERS)).tolist(), *STRANGERS]
    return Request.of(
        users,
        k=rng.choice([1, 2, 10, 20, 21, 50, 90], num_users),
        exclude=[rng.choice(world.item_ids, rng.integers(0, 60)).tolist() for _ in users],
        timestamp=rng.integers(world.as_of - 40 * DAY, world.as_of + 40 * DAY, num_users),
        with_candidates=True,
    )


def single_of(request, row):
    return request.rows(slice(row, row + 1))


def assert_equal_replies(reply, expected):
    for name in FIELDS:
        one, other = getattr(reply, name), getattr(expected, name)
        assert one.dtype == other.dtype and one.shape == other.shape, name
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_64_users_in_one_call_equal_64_calls_bit_for_bit(world, pipeline):
    request = mixed_request(world)
    together = pipeline.recommend(request)
    for row in range(len(request)):
        alone = pipeline.recommend(single_of(request, row))
        assert_equal_replies(together.rows(slice(row, row + 1), int(request.k[row])), alone)


def with_options(world, request, number):
    """The request, asking for a mixture of sampling, diversity and an allow list."""
    return Request.of(
        request.user_id,
        request.k,
        request.exclude,
        request.timestamp,
        allow=[world.item_ids[number::3].tolist() if number % 2 else []],
        seed=number,
        temperature=[None, 0.0, 0.5, 40.0][number % 4],
        diversity=[None, 0.4, 1.0][number % 3],
        with_candidates=True,
    )


def test_joined_requests_equal_their_own_replies(world, pipeline):
    mixed = mixed_request(world, 24)
    requests = [with_options(world, single_of(mixed, row), row) for row in range(24)]
    joined, slices = join(requests)
    together = pipeline.recommend(joined)
    assert len(set(together.propensities.ravel().tolist())) > 24 and (together.propensities == 1).any()
    for request, rows in zip(requests, slices, strict=True):
        assert_equal_replies(together.rows(rows, int(request.k.max())), pipeline.recommend(request))


def test_merlins_own_executor_gives_the_same(world, pipeline):
    request = mixed_request(world)
    merlins = cloudpickle.loads((world.version / "ensemble/ensemble.pkl").read_bytes())
    for operator in operators_of(merlins):
        operator.load_artifacts(str(world.version / "ensemble"))
    done = merlins.transform(TensorTable(columns_of(request, world.as_of)))
    for name, values in pipeline.columns(request).items():
        np.testing.assert_array_equal(done[name].values, values, err_msg=name)


def test_a_trace_has_the_seconds_of_every_operator_and_the_columns_of_the_reply(world, pipeline):
    trace = Trace()
    begun = time.perf_counter()
    reply = pipeline.recommend(mixed_request(world), trace)
    taken = time.perf_counter() - begun
    stages = [type(operator).__name__ for operator in pipeline.operators]
    assert list(trace.stage_seconds) == stages and trace.stage == stages[-1]
    assert min(trace.stage_seconds.values()) > 0 and 0.5 * taken < sum(trace.stage_seconds.values()) <= taken
    np.testing.assert_array_equal(trace.columns["scores"], reply.scores)


def test_a_trace_names_the_operator_that_failed(world, pipeline, monkeypatch):
    def fail(*_, **__):
        raise RuntimeError("no ranker")

    (ranker,) = (one for one in pipeline.operators if isinstance(one, ScoreCandidates))
    monkeypatch.setattr(ranker, "run", fail)
    trace = Trace()
    with pytest.raises(RuntimeError, match="no ranker"):
        pipeline.recommend(mixed_request(world), trace)
    assert trace.stage == "ScoreCandidates" and "EncodeQuery" in trace.stage_seconds and not trace.columns


def test_a_reply_keeps_every_promise(world, pipeline):
    request = mixed_request(world)
    reply = pipeline.recommend(request)
    row_of_user = {user: row for row, user in enumerate(world.user_ids)}
    for row, user in enumerate(request.user_id):
        slate, candidates, ranked = ids(reply.item_ids[row]), ids(reply.candidate_ids[row]), ids(reply.ranked_ids[row])
        user_row = row_of_user.get(user)
        seen = world.item_ids[sorted(world.seen(user_row))].tolist() if user_row is not None else []
        allowed = set(world.item_ids) - set(seen) - set(request.exclude[row])
        assert len(slate) == min(request.k[row], len(allowed)) and set(candidates) <= allowed
        assert len(set(candidates)) == len(candidates) and sorted(candidates) == sorted(ranked)
        assert slate == ranked[: len(slate)]
        assert len(candidates) == min(max(NUM_CANDIDATES, request.k[row]), len(allowed))
        scores = reply.scores[row]
        assert np.isfinite(scores[: len(slate)]).all() and np.isneginf(scores[len(slate) :]).all()
        assert (np.diff(scores[: len(slate)]) <= 0).all()
        assert reply.propensities[row].tolist() == [1.0] * len(slate) + [0.0] * (len(scores) - len(slate))


def test_the_source_says_what_is_known_of_the_user(world, pipeline):
    quiet = int(np.flatnonzero(world.num_events == 0)[0])
    (active,) = world.most_active(1)
    reply = pipeline.recommend(Request.of([world.user_ids[active], world.user_ids[quiet], *STRANGERS]))
    assert reply.source.tolist() == ["personal", "cold", *["fallback"] * len(STRANGERS)]


def test_an_unknown_user_gets_what_sells_best_less_what_is_excluded(world, pipeline):
    recent = world.events["timestamp"] >= world.as_of - 28 * DAY
    num_recent = np.bincount(world.events["item_row"][recent], minlength=len(world.items))
    num_all = np.bincount(world.events["item_row"], minlength=len(world.items))
    best = sorted(range(len(world.items)), key=lambda item: (-num_recent[item], -num_all[item], item))
    expected = world.item_ids[best].tolist()
    reply = pipeline.recommend(Request.of(["stranger"], k=len(expected), with_candidates=True))
    assert ids(reply.item_ids[0]) == ids(reply.candidate_ids[0]) == expected
    reply = pipeline.recommend(Request.of(["stranger"], k=5, exclude=[expected[:3]]))
    assert ids(reply.item_ids[0]) == expected[3:8]


def test_k_beyond_the_catalogue_pads(world, pipeline):
    quiet = world.user_ids[int(np.flatnonzero(world.num_events == 0)[0])]
    reply = pipeline.recommend(Request.of([quiet, "stranger"], k=MAX_K, with_candidates=True))
    assert reply.item_ids.shape == (2, MAX_K)
    for row in range(2):
        assert sorted(ids(reply.item_ids[row])) == sorted(world.item_ids)
        assert (reply.item_ids[row, len(world.item_ids) :] == "").all()
        assert np.isneginf(reply.scores[row, len(world.item_ids) :]).all()
        assert not reply.propensities[row, len(world.item_ids) :].any()


def test_everything_excluded_is_an_empty_slate_and_no_error(world, pipeline):
    users = [world.user_ids[world.most_active(1)[0]], "stranger"]
    everything = world.item_ids.tolist()
    reply = pipeline.recommend(Request.of(users, k=3, exclude=[everything, everything], with_candidates=True))
    assert reply.item_ids.tolist() == [["", "", ""]] * 2 and reply.candidate_ids.shape == (2, 0)
    reply = pipeline.recommend(Request.of(users, k=3, exclude=[everything[1:], everything[1:]]))
    assert [ids(row) for row in reply.item_ids][1] == everything[:1]


@pytest.mark.parametrize("unknown", ["nothing", " ", "\U0001f600", "\uffff", "0" * 256])
def test_excluding_what_does_not_exist_changes_nothing(world, pipeline, unknown):
    user = world.user_ids[world.most_active(1)[0]]
    exclude = [[unknown, f"{world.item_ids[0]}\0", f"{world.item_ids[0]} "] * 3]
    assert_equal_replies(
        pipeline.recommend(Request.of([user], exclude=exclude, with_candidates=True)),
        pipeline.recommend(Request.of([user], with_candidates=True)),
    )


def test_a_time_before_the_users_last_event_counts_as_that_event(world, pipeline):
    (user_row,) = world.most_active(1)
    last = world.users["last_timestamp"][user_row].as_py()
    same_hour = last - last % 3_600 - 7 * DAY * 20
    replies = [
        pipeline.recommend(Request.of([world.user_ids[user_row]], timestamp=moment, with_candidates=True))
        for moment in (same_hour, same_hour + 7 * DAY)
    ]
    assert_equal_replies(*replies)


def oracle_features(world, user_row, item_row, moment):
    """What the ranker was trained to read for pairs at a moment, from NVTabular's workflow and the etl tables."""
    raw = raw_interactions(world.log, user_row, item_row, moment, as_of_features(world.etl))
    encoded = transform(load_workflow(world.etl, "interactions"), raw)
    found = {}
    for column in load_schema(world.etl.file("schema.json")):
        if column.name in RETRIEVAL_ONLY:
            continue
        if column.name in encoded.column_names:
            values = encoded[column.name]
        elif column.name in world.users.column_names:
            values = world.users[column.name].take(user_row)
        else:
            values = world.items[column.name].take(item_row)
        found[column.name] = np.array(values.to_pylist(), dtype=column.dtype.to_numpy)
    return found


def oracle_tastes(world, user_row, item_row):
    """How the user's history and the items go together, and how the items stand among those in demand."""
    item_IE = matrix_of(pq.read_table(world.retrieval.file("item_vectors.parquet"))["vector"])
    popularity_IP = PopularityTimeline(world.etl).at(world.as_of).numpy()
    schema = load_schema(world.etl.file("schema.json"))
    length = len(world.users["history"][0])
    past = np.flatnonzero(world.events["user_row"] == user_row[0])[::-1][:length]
    history = np.full((1, length), NO_ITEM)
    history[0, : len(past)] = world.events["item_row"][past]
    number_I = {name: world.items[name].to_numpy() for name in number_names(schema)}
    relative = relative_numbers(number_I, popularity_IP[:, :NUM_WINDOWS])
    attribute = {name: array_of(world.items[name]) for name in attribute_names(schema)}
    unit_ID = item_IE[:, : -popularity_IP.shape[1]]
    of_pairs = similarities(item_row[None], history, unit_ID)
    of_pairs |= affinities(item_row[None], history, attributes_at(attribute, in_demand(popularity_IP)))
    found = {name: values[item_row] for name, values in relative.items()}
    return found | {name: values[0] for name, values in of_pairs.items()}


class Recorder:
    """Stands in for the ranker's ONNX session and keeps what it is given."""

    def __init__(self, model):
        self.model, self.inputs = model, model.inputs

    def run(self, columns, rows_per_user):
        self.columns = {name: columns[name] for name in self.inputs}
        return self.model.run(columns, rows_per_user)


def test_the_ranker_is_served_the_features_it_was_trained_on(world, pipeline):
    """User features at any later moment; item features at the moment that the snapshot was made for."""
    users = np.array([*world.most_active(5), *np.flatnonzero(world.num_events == 0)[:2]])
    (score,) = (one for one in pipeline.operators if isinstance(one, ScoreCandidates))
    recorder = score.opened_model = Recorder(score.opened_model)
    try:
        for later in (0, 5 * 3_600, 30 * DAY + 12_345):
            moment = np.full(len(users), world.as_of + later)
            asked = [world.user_ids[row] for row in users]
            reply = pipeline.recommend(Request.of(asked, timestamp=moment, with_candidates=True))
            for place, user_row in enumerate(users):
                item_row = np.searchsorted(world.item_ids.astype(str), reply.candidate_ids[place].astype(str))
                pairs = np.full(len(item_row), user_row), item_row, np.full(len(item_row), moment[place])
                expected = oracle_features(world, *pairs) | oracle_tastes(world, *pairs[:2])
                of_retrieval = {RETRIEVAL_SCORE, TWO_TOWER_SCORE, *map(source_feature, world.sources)}
                assert {*expected, *of_retrieval} == set(recorder.columns)
                for name, values in expected.items():
                    served = recorder.columns[name][place]
                    if not is_per_candidate(name):
                        values = values[0]
                    np.testing.assert_allclose(served, values, rtol=1e-5, atol=1e-5, err_msg=name)
    finally:
        score.opened_model = recorder.model


def oracle_retrieval(world, user_row):
    """Candidates of a user and what retrieval says of them: exact search, the fitted sources and the merge by hand."""
    query_E, item_IE = (
        matrix_of(pq.read_table(world.retrieval.file(f"{name}_vectors.parquet"))["vector"]) for name in ("user", "item")
    )
    query_E, seen = query_E[user_row], world.seen(user_row)
    similarity_I = item_IE @ query_E
    num_events_I = np.bincount(world.events["item_row"], minlength=len(item_IE))
    by_similarity = [item for item in np.argsort(-similarity_I, kind="stable").tolist() if item not in seen]
    proposed = {"two_tower": by_similarity, "new_items": [item for item in by_similarity if not num_events_I[item]]}
    folder = world.retrieval.file("sources/merge.json").parent
    features = {name: np.array(world.users[name].take([user_row]).to_pylist()) for name in world.users.column_names}
    row_of = {item_id: row for row, item_id in enumerate(world.items["item_id"].to_pylist()) if item_id >= FIRST_KNOWN}
    history = [row_of.get(item_id, NO_ITEM) for item_id in features["history"][0].tolist()]
    users = Users(features, np.array([history]), np.array([[*seen, NO_ITEM]]), query_E[None])
    for kind in FITTED:
        if kind.name in world.sources:
            source = kind.from_arrays(load_numpy_file(folder / f"{kind.name}.safetensors"))
            proposed[kind.name] = [item for item in source.propose(users, 300).row_BK[0].tolist() if item != NO_ITEM]
    merge = load_merge(folder)
    said = {
        item: [60 / (60 + proposed[s].index(item)) if item in proposed[s] else 0.0 for s in world.sources]
        for item in {item for items in proposed.values() for item in items}
    }
    score = {item: float(np.dot(ranks, merge.weights)) for item, ranks in said.items()}
    return said, score, similarity_I


def test_candidates_and_ranks_equal_brute_force(world, pipeline):
    """Torch's own vectors and ranker over every item, without index, store, ONNX or operators."""
    config = TypeAdapter(RankingConfig).validate_python(world.ranking.manifest["config"])
    schema = ranker_schema(load_schema(world.etl.file("schema.json")), world.sources)
    model = Ranker(schema, config.network)
    for user_row in [*world.most_active(3), int(np.flatnonzero(world.num_events == 0)[0])]:
        reply = pipeline.recommend(Request.of([world.user_ids[user_row]], k=NUM_CANDIDATES, with_candidates=True))
        said, merged, similarity_I = oracle_retrieval(world, user_row)
        served = np.searchsorted(world.item_ids.astype(str), reply.candidate_ids[0].astype(str))
        assert len(served) == NUM_CANDIDATES
        # The best by score, but for the one place in a hundred that is reserved: with twenty candidates there is none.
        best = sorted(merged.values(), reverse=True)[:NUM_CANDIDATES]
        np.testing.assert_allclose([merged[item] for item in served.tolist()], best, rtol=1e-5)

        pairs = np.full(len(served), user_row), served, np.full(len(served), world.as_of)
        features = oracle_features(world, *pairs) | oracle_tastes(world, *pairs[:2])
        batch = {name: torch.from_numpy(values) for name, values in features.items()}
        of_retrieval = {
            RETRIEVAL_SCORE: [merged[item] for item in served.tolist()],
            TWO_TOWER_SCORE: similarity_I[served],
        }
        of_retrieval |= {
            source_feature(s): [said[item][place] for item in served.tolist()] for place, s in enumerate(world.sources)
        }
        batch |= {name: torch.tensor(np.array(values), dtype=torch.float32) for name, values in of_retrieval.items()}
        with torch.no_grad():
            model.eval()(batch)  # Merlin's layers take their shapes from the first batch
            model.load_state_dict(load_file(world.ranking.file("model.safetensors")))
            score = dict(zip(world.item_ids[served], model.eval()(batch).numpy(), strict=True))
        np.testing.assert_allclose(reply.scores[0], [score[item] for item in reply.item_ids[0]], rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", SEALED)
@pytest.mark.parametrize("damage", ["changed", "cut", "missing"])
def test_a_damaged_file_is_named_before_it_is_opened(own_version, name, damage):
    file = own_version / "ensemble" / name
    content = bytearray(file.read_bytes())
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-1])
    else:
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    with pytest.raises(ArtifactError, match=f"{name} is missing or damaged; run `export` again"):
        Pipeline.load(own_version)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"as_of": 1, "sha256": {}}', '{"sha256": {"ensemble.pkl": ""}}'])
def test_a_pickle_without_a_hash_is_not_loaded(own_version, text):
    (own_version / "sha256.json").write_text(text)
    with pytest.raises(ArtifactError, match=r"sha256\.json is damaged"):
        Pipeline.load(own_version)


def test_a_folder_without_a_model_is_named(tmp_path):
    with pytest.raises(ArtifactError, match=r"sha256.json is missing.*no exported model"):
        Pipeline.load(tmp_path)


def test_a_missing_store_is_named(own_version):
    (own_version / "ensemble/store/online.db").unlink()
    with pytest.raises(ArtifactError, match=r"online\.db is missing"):
        Pipeline.load(own_version)


def test_a_store_that_breaks_degrades_and_one_that_is_repaired_serves_again(world, own_version):
    nobody_is_remembered = ServingConfig(cache=CacheConfig(num_recent_users=0))
    pipeline, store = Pipeline.load(own_version, nobody_is_remembered), own_version / "ensemble/store/online.db"
    user = world.user_ids[world.most_active(1)[0]]
    request = Request.of([user, "stranger"], k=5, exclude=[[], [world.item_ids[0]]], with_candidates=True)
    before = pipeline.recommend(request)
    whole = store.read_bytes()
    store.write_bytes(b"garbage" * 1_000)
    broken = pipeline.recommend(request)
    assert broken.source.tolist() == ["degraded", "degraded"]
    assert broken.item_ids[1].tolist() == before.item_ids[1].tolist()
    assert len(ids(broken.item_ids[0])) == 5
    store.write_bytes(whole)
    assert_equal_replies(pipeline.recommend(request), before)
