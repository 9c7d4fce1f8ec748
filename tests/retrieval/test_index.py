"""The index against exact NumPy."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.artifact import Artifact, ArtifactWriter
from retrieval.config import IndexConfig
from retrieval.index import NO_ITEM, build, load, recall_against_exact, run, search

GRAPH = IndexConfig(exact_up_to=0)
EXACT = IndexConfig()


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(3_000, 17)).astype(np.float32)


@pytest.fixture(scope="module")
def queries() -> np.ndarray:
    return np.random.default_rng(1).normal(size=(100, 17)).astype(np.float32)


def best_by_hand(vectors: np.ndarray, queries: np.ndarray, k: int) -> np.ndarray:
    score = queries.astype(np.float64) @ vectors.astype(np.float64).T
    return np.lexsort((np.broadcast_to(np.arange(len(vectors)), score.shape), -score), axis=1)[:, :k]


def retrieval_artifact(folder, vectors: np.ndarray) -> Artifact:
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), vectors.shape[1])
    pq.write_table(pa.table({"vector": column}), folder / "item_vectors.parquet")
    return Artifact(folder, {"stage": "retrieval", "parts": {"item_vectors.parquet": {}}})


def test_exact_search_finds_what_numpy_finds(vectors, queries):
    row, score = search(build(vectors, EXACT), queries, 50)
    np.testing.assert_array_equal(row, best_by_hand(vectors, queries, 50))
    np.testing.assert_allclose(score, np.take_along_axis(queries @ vectors.T, row, 1), rtol=1e-4, atol=1e-4)
    assert row.dtype == np.int64 and score.dtype == np.float32


def test_the_graph_finds_nearly_all_of_it(vectors, queries):
    row, _ = search(build(vectors, GRAPH), queries, 100)
    exact = best_by_hand(vectors, queries, 100)
    assert np.mean([len(np.intersect1d(a, b)) / 100 for a, b in zip(row, exact, strict=True)]) > 0.97
    assert recall_against_exact(build(vectors, GRAPH), vectors, seed=0) > 0.97


@pytest.mark.parametrize("config", [EXACT, GRAPH], ids=["exact", "graph"])
def test_a_call_for_many_queries_equals_calls_for_each_bit_for_bit(vectors, queries, config):
    index = build(vectors, config)
    row, score = search(index, queries, 64)
    for i in range(len(queries)):
        one_row, one_score = search(index, queries[i : i + 1], 64)
        assert one_row.tobytes() == row[i : i + 1].tobytes()
        assert one_score.tobytes() == score[i : i + 1].tobytes()


@pytest.mark.parametrize("config", [EXACT, GRAPH], ids=["exact", "graph"])
def test_equal_scores_come_in_the_order_of_the_items(config):
    vectors = np.repeat(np.eye(4, dtype=np.float32), 5, axis=0)[np.random.default_rng(0).permutation(20)]
    row, score = search(build(vectors, config), np.array([[4, 3, 2, 1]], np.float32), 20)
    np.testing.assert_array_equal(row, best_by_hand(vectors, np.array([[4, 3, 2, 1]], np.float32), 20))
    assert (np.diff(score) <= 0).all()


def test_more_candidates_than_items_gives_all_items(vectors, queries):
    row, _ = search(build(vectors[:7], EXACT), queries[:2], 100)
    assert np.sort(row).tolist() == [list(range(7))] * 2


def test_places_that_the_graph_leaves_empty_are_marked(queries):
    vectors = np.zeros((50, 17), np.float32)
    row, score = search(build(vectors, GRAPH), queries[:1], 50)
    assert ((row == NO_ITEM) == np.isneginf(score)).all()


def test_a_query_of_another_width_is_refused(vectors):
    with pytest.raises(ValueError, match=r"must be \[Q, 17\].*got \(2, 5\)"):
        search(build(vectors, EXACT), np.zeros((2, 5), np.float32), 3)


def test_the_stage_writes_an_index_that_answers_the_same_after_loading(vectors, queries, tmp_path):
    writer = ArtifactWriter(tmp_path)
    run(EXACT, retrieval_artifact(tmp_path, vectors), 0, writer)
    found, expected = search(load(tmp_path / "index.faiss"), queries, 9), search(build(vectors, EXACT), queries, 9)
    assert all(a.tobytes() == b.tobytes() for a, b in zip(found, expected, strict=True))
    assert writer.metrics["num_vectors"] == 3_000 and writer.metrics["recall_at_100_against_exact"] == 1.0


def test_equal_vectors_give_an_equal_graph_file(vectors, tmp_path):
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        run(GRAPH, retrieval_artifact(tmp_path / name, vectors), 0, ArtifactWriter(tmp_path / name))
    assert (tmp_path / "one/index.faiss").read_bytes() == (tmp_path / "two/index.faiss").read_bytes()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_vectors_that_are_not_finite_are_refused_by_row(vectors, tmp_path, bad):
    vectors = vectors[:10].copy()
    vectors[6, 2] = bad
    with pytest.raises(ValueError, match=r"row 6 is not finite.*lower retrieval\.learning-rate"):
        run(EXACT, retrieval_artifact(tmp_path, vectors), 0, ArtifactWriter(tmp_path))
