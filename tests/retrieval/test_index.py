"""The stage and each kind of index against exact NumPy."""

import json
import logging

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.artifact import Artifact, ArtifactWriter
from retrieval.config import IndexConfig
from retrieval.index import NO_ITEM, build, load, recall_against_exact, run, search
from retrieval.index.choice import choose
from retrieval.index.identity import DuplicateItemsError
from retrieval.index.space import SphereSpace

EXACT = IndexConfig(kind="flat")
GRAPH, CELLS = (IndexConfig(kind=kind, recall_target=0.9) for kind in ("hnsw", "ivf_pq"))
KINDS = pytest.mark.parametrize("config", [EXACT, GRAPH, CELLS], ids=["flat", "hnsw", "ivf_pq"])


def clusters(number: int, dim: int, seed: int) -> np.ndarray:
    """Vectors around 50 centres, as embeddings are; the centres do not depend on the seed."""
    centres = np.random.default_rng(9).normal(size=(50, dim))
    random = np.random.default_rng(seed)
    return (centres[random.integers(0, 50, number)] + 0.5 * random.normal(size=(number, dim))).astype(np.float32)


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return clusters(6_000, 17, 0)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return clusters(100, 17, 1)


def best_by_hand(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    score = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return np.lexsort((np.broadcast_to(np.arange(len(vectors)), score.shape), -score), axis=1)[:, :k]


def recall(found: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean([np.isin(a, b).mean() for a, b in zip(true, found, strict=True)]))


def retrieval_artifact(folder, vectors: np.ndarray, users: np.ndarray | None = None, ids=None) -> Artifact:
    def write(name: str, matrix: np.ndarray, **columns) -> None:
        column = pa.FixedSizeListArray.from_arrays(pa.array(matrix.ravel()), matrix.shape[1])
        pq.write_table(pa.table(columns | {"vector": column}), folder / name)

    write("item_vectors.parquet", vectors, **({} if ids is None else {"raw_id": ids}))
    parts = {"item_vectors.parquet": {}, "query_encoder.onnx": {"sha256": "ab" * 32}}
    if users is not None:
        write("user_vectors.parquet", users)
        parts["user_vectors.parquet"] = {}
    metrics = {"vocabulary": {"number": 3, "sha256": "cd" * 32}}
    return Artifact(folder, {"stage": "retrieval", "parts": parts, "metrics": metrics})


def test_exact_search_finds_what_numpy_finds(vectors, queries):
    row, score = search(build(vectors, EXACT), queries, 50)
    np.testing.assert_array_equal(row, best_by_hand(vectors, queries, 50))
    np.testing.assert_allclose(score, np.take_along_axis(queries @ vectors.T, row, 1), rtol=1e-4, atol=1e-4)
    assert row.dtype == np.int64 and score.dtype == np.float32


@pytest.mark.parametrize("config", [GRAPH, CELLS], ids=["hnsw", "ivf_pq"])
def test_a_kind_finds_the_share_it_was_told_to_for_queries_it_has_not_seen(vectors, queries, config):
    index = build(vectors, config, query_QD=clusters(300, 17, 2))
    assert index.kind.name == config.kind
    row, score = search(index, queries, 100)
    assert recall(row, best_by_hand(vectors, queries, 100)) > 0.88
    np.testing.assert_allclose(score, np.take_along_axis(queries @ vectors.T, row, 1), rtol=1e-4, atol=1e-4)
    assert (np.diff(score) <= 0).all()
    assert recall_against_exact(index, vectors, seed=0) > 0.85


@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
def test_a_higher_target_is_met_by_a_broader_search(vectors, kind):
    users = clusters(300, 17, 2)
    found = {}
    for target in (0.5, 0.95):
        chosen, measured = choose(vectors, IndexConfig(kind=kind, recall_target=target), users, 0)
        assert measured.reached and measured.recall_at_100_against_exact > target - 0.005
        assert measured.kind == kind and measured.parameters == chosen.parameters and measured.num_queries == 150
        *failed, last = measured.tried
        assert last.parameters == measured.parameters and last.speedup_over_exact == measured.speedup_over_exact
        assert last.least_recall >= target > max((one.least_recall for one in failed), default=0.0)
        found[target] = max(measured.parameters.values()), measured.recall_at_100_against_exact
    assert found[0.95][1] > found[0.5][1] or found[0.95] == found[0.5]


def test_auto_is_exact_up_to_the_limit_and_not_beyond(vectors):
    assert build(vectors, IndexConfig(exact_up_to=6_000)).kind.name == "flat"
    assert build(vectors, IndexConfig(exact_up_to=5_999, recall_target=0.9)).kind.name in ("hnsw", "ivf_pq")
    assert build(vectors[:999], IndexConfig(exact_up_to=0, kind="auto")).kind.name == "flat"


def test_where_no_kind_reaches_the_target_the_search_is_exact_and_says_so(tmp_path, caplog):
    noise = np.random.default_rng(0).normal(size=(3_000, 40)).astype(np.float32)
    writer = ArtifactWriter(tmp_path)
    config = IndexConfig(kind="ivf_pq", recall_target=1.0)
    with caplog.at_level(logging.WARNING):
        run(config, retrieval_artifact(tmp_path, noise), 0, writer)
    assert writer.metrics["kind"] == "flat" and writer.metrics["reached"] is False
    assert {one["kind"] for one in writer.metrics["tried"]} == {"ivf_pq"}
    assert "no index reached recall@100 1.000" in caplog.text
    assert load(tmp_path).kind.name == "flat"


@pytest.mark.parametrize("kind", ["hnsw", "ivf_pq"])
def test_long_popular_vectors_do_not_hide_the_others(kind):
    """Counts of heavy tails beside unit coordinates, weighed as users weigh them: item neighbourhoods by inner product
    alone find less than a tenth here."""
    random = np.random.default_rng(0)
    logs = np.log1p(3 * random.pareto(1.0, (8_000, 2)))
    unit = clusters(8_000, 32, 0)
    items = np.concatenate([unit / np.linalg.norm(unit, axis=1, keepdims=True), logs], 1).astype(np.float32)
    asked = clusters(400, 32, 1)
    asked = np.concatenate([14 * asked / np.linalg.norm(asked, axis=1, keepdims=True), np.full((400, 2), 0.6)], 1)
    asked = asked.astype(np.float32)
    index = build(items, IndexConfig(kind=kind, recall_target=0.95), query_QD=asked[:300])
    assert index.kind.name == kind
    assert recall(search(index, asked[300:], 100)[0], best_by_hand(items, asked[300:], 100)) > 0.93


@given(
    exponents=st.lists(st.integers(-8, 8), min_size=5, max_size=5),
    seed=st.integers(0, 1_000),
)
@settings(max_examples=50, deadline=None)
def test_the_space_of_the_search_keeps_inner_products_and_gives_vectors_one_length(exponents, seed):
    random = np.random.default_rng(seed)
    query = (random.normal(size=(30, 5)) * 2.0 ** np.array(exponents)).astype(np.float32)
    item = random.normal(size=(40, 5)).astype(np.float32)
    space = SphereSpace.fitted(5, query)
    on_sphere, asked = space.items(item), space.queries(query)
    by_hand = query.astype(np.float64) @ item.astype(np.float64).T
    np.testing.assert_allclose(asked.astype(np.float64) @ on_sphere.astype(np.float64).T, by_hand, rtol=1e-12)
    np.testing.assert_allclose(np.linalg.norm(on_sphere, axis=1), np.linalg.norm(on_sphere[0]), rtol=1e-5)
    np.testing.assert_array_equal(space.vectors(on_sphere), item)
    distance = np.linalg.norm(asked[:, None] - on_sphere[None], axis=2)
    best = np.take_along_axis(by_hand, distance.argmin(1)[:, None], 1)[:, 0]
    np.testing.assert_allclose(best, by_hand.max(1), rtol=1e-3, atol=1e-3 * np.abs(by_hand).max())


@KINDS
@pytest.mark.parametrize("filtered", [False, True], ids=["all", "filtered"])
def test_a_call_for_many_queries_equals_calls_for_each_bit_for_bit(vectors, queries, config, filtered):
    index = build(vectors, config)
    index.put([5, 7], vectors[:2])
    index.delete([11])
    random = np.random.default_rng(0)
    forbidden = random.integers(NO_ITEM, 6_000, (100, 30)) if filtered else np.full((100, 3), NO_ITEM)
    forbidden[::3] = NO_ITEM
    allowed = random.random(6_000) < 0.5 if filtered else None
    row, score = search(index, queries, 64, forbidden=forbidden, allowed=allowed)
    for i in range(len(queries)):
        one_row, one_score = search(index, queries[i : i + 1], 64, forbidden=forbidden[i : i + 1], allowed=allowed)
        assert one_row.tobytes() == row[i : i + 1].tobytes()
        assert one_score.tobytes() == score[i : i + 1].tobytes()


def test_nearly_equal_scores_do_not_depend_on_the_number_of_queries():
    """They differ in the last bit, where a matrix product of thousands of queries rounds otherwise than each alone."""
    random = np.random.default_rng(0)
    index = build((random.normal(size=17) + 1e-6 * random.normal(size=(3_000, 17))).astype(np.float32), EXACT)
    queries = random.normal(size=(8_000, 17)).astype(np.float32)
    together = search(index, queries, 64)[0][:40]
    alone = np.concatenate([search(index, query[None], 64)[0] for query in queries[:40]])
    np.testing.assert_array_equal(together, alone)


@KINDS
def test_an_items_score_does_not_depend_on_filters_or_depth(vectors, queries, config):
    index = build(vectors, config)
    row, score = search(index, queries, 50)
    allowed = np.zeros(6_000, bool)
    allowed[row[:, ::7]] = True
    for k, mask in ((5, None), (200, None), (50, allowed)):
        other_row, other_score = search(index, queries, k, allowed=mask)
        for query in range(len(queries)):
            shared, mine, theirs = np.intersect1d(row[query], other_row[query], return_indices=True)
            assert len(shared)
            np.testing.assert_array_equal(score[query, mine], other_score[query, theirs])


@KINDS
def test_equal_scores_come_in_the_order_of_the_items(config):
    vectors = np.repeat(np.eye(4, dtype=np.float32), 500, axis=0)[np.random.default_rng(0).permutation(2_000)]
    row, score = search(build(vectors, config), np.array([[4, 3, 2, 1]], np.float32), 2_000)
    np.testing.assert_array_equal(row, best_by_hand(vectors, np.array([[4, 3, 2, 1]], np.float32), 2_000))
    assert (np.diff(score) <= 0).all()


def test_more_candidates_than_items_gives_all_items(vectors, queries):
    row, _ = search(build(vectors[:7], EXACT), queries[:2], 100)
    assert np.sort(row).tolist() == [list(range(7))] * 2


@KINDS
def test_all_items_come_back_even_where_all_are_alike(config):
    vectors = np.zeros((1_500, 6), np.float32)
    row, score = search(build(vectors, config), np.ones((2, 6), np.float32), 1_500)
    assert row.tolist() == [list(range(1_500))] * 2 and (score == 0).all()


def test_no_query_gets_no_answer(vectors):
    row, score = search(build(vectors, EXACT), np.empty((0, 17), np.float32), 3)
    assert row.shape == score.shape == (0, 3)


def test_arguments_of_other_shapes_are_refused(vectors):
    index, query = build(vectors, EXACT), np.zeros((2, 17), np.float32)
    with pytest.raises(ValueError, match=r"must be \[Q, 17\].*got \(2, 5\)"):
        search(index, query[:, :5], 3)
    with pytest.raises(ValueError, match=r"forbidden must be \[Q, S\] with Q = 2, got \(1, 4\)"):
        search(index, query, 3, forbidden=np.zeros((1, 4), np.int64))
    with pytest.raises(ValueError, match=r"allowed must be \[I\] bool.*int64"):
        search(index, query, 3, allowed=np.zeros(9, np.int64))


@KINDS
def test_the_stage_writes_an_index_that_answers_the_same_after_loading(vectors, queries, tmp_path, config):
    writer, users = ArtifactWriter(tmp_path), clusters(300, 17, 2)
    ids = [f"item-{i}" for i in range(len(vectors))]
    run(config, retrieval_artifact(tmp_path, vectors, users, ids), 0, writer)
    expected = search(build(vectors, config, query_QD=users), queries, 9)
    for path in (tmp_path, tmp_path / "index.faiss"):
        found = search(load(path, expected_model="ab" * 32, expected_dim=17), queries, 9)
        assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))
    assert load(tmp_path).ids_of(np.array([3, 0])) == ["item-3", "item-0"]
    metrics = writer.metrics
    assert metrics["num_vectors"] == 6_000 and metrics["dim"] == 17 and metrics["kind"] == config.kind
    assert metrics["recall_at_100_against_exact"] > 0.87 and metrics["measured_on"] == "users"
    assert metrics["bytes"] == (tmp_path / "index.faiss").stat().st_size
    json.dumps(metrics)


@KINDS
def test_equal_vectors_give_equal_files(vectors, tmp_path, config):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(config, retrieval_artifact(tmp_path / name, vectors), 0, ArtifactWriter(tmp_path / name))
    for file in ("index.faiss", "index.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("whose", ["item", "user"])
def test_vectors_that_are_not_finite_are_refused_by_row(vectors, tmp_path, bad, whose):
    good, broken = vectors[:10], vectors[:10].copy()
    broken[6, 2] = bad
    artifact = retrieval_artifact(tmp_path, *((broken, good) if whose == "item" else (good, broken)))
    with pytest.raises(ValueError, match=rf"{whose}_vectors.*row 6 is not finite.*lower retrieval\.learning-rate"):
        run(EXACT, artifact, 0, ArtifactWriter(tmp_path))


def test_an_item_that_stands_twice_is_refused_by_name(vectors, tmp_path):
    artifact = retrieval_artifact(tmp_path, vectors[:4], ids=["a", "b", "c", "b"])
    with pytest.raises(DuplicateItemsError, match="item 'b' stands in rows 1 and 3"):
        run(EXACT, artifact, 0, ArtifactWriter(tmp_path))
