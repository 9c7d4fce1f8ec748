"""Items that are like an item, against a plain computation."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from features.artifact import Artifact, open_artifact, writing
from features.list_column import list_column
from pipelines.__main__ import main
from pipelines.similar import SimilarError, nearest, similar_items

ZERO = [0.0, 0.0]


def model(folder, vectors: dict[str, list[float]], dim: int = 2) -> Artifact:
    """A retrieval artifact with these item vectors, the first `dim` coordinates of which are about taste."""
    with writing(folder / "retrieval", "retrieval", {"two_tower": {"embedding_dim": dim}}, 1, {}) as writer:
        matrix = np.array(list(vectors.values()), dtype=np.float32)
        table = pa.table({"raw_id": list(vectors), "vector": list_column(matrix)})
        pq.write_table(table, writer.path / "item_vectors.parquet")
    return open_artifact(folder / "retrieval", "retrieval")


def test_likeness_is_the_cosine_without_popularity_and_without_the_item_itself(tmp_path):
    vectors = {
        "x": [1, 0, 9, 9],
        "near": [2, 1, -9, 3],
        "far": [-1, 0, 9, 9],
        "right": [0, 3, 9, 9],
        "none": [*ZERO, 9, 9],
    }
    (found,) = similar_items(model(tmp_path, vectors), ["x"], 10)
    assert found.item_id == "x"
    assert [item for item, _ in found.items] == ["near", "right", "none", "far"]
    assert np.allclose([cosine for _, cosine in found.items], [2 / 5**0.5, 0, 0, -1])


def test_the_items_of_a_run_are_those_of_a_plain_computation(small_run, capsys):
    retrieval = open_artifact(small_run / "retrieval", "retrieval")
    table = pq.read_table(retrieval.file("item_vectors.parquet")).to_pylist()
    taste = {row["raw_id"]: np.array(row["vector"][:16], dtype=np.float64) for row in table}
    asked = [table[3]["raw_id"], table[70]["raw_id"]]
    assert main(["similar", "--run", str(small_run), "--item", f"{asked[0]}, {asked[1]}", "--k", "6", "--json"]) == 0
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one["item_id"] for one in printed] == asked
    for one in printed:
        here = taste[one["item_id"]]
        cosine = {
            raw_id: there @ here / np.linalg.norm(there) / np.linalg.norm(here)
            for raw_id, there in taste.items()
            if raw_id != one["item_id"]
        }
        assert [item["item_id"] for item in one["items"]] == sorted(cosine, key=lambda raw_id: -cosine[raw_id])[:6]
        assert np.allclose([item["cosine"] for item in one["items"]], sorted(cosine.values(), reverse=True)[:6])


def test_the_table_shows_titles(small_run, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    items = pq.read_table(small_run / "etl" / "items.parquet", columns=["raw_id", "title"]).to_pylist()
    assert main(["similar", "--run", str(small_run), "--item", items[0]["raw_id"], "--k", "2"]) == 0
    shown = capsys.readouterr().out
    assert f"like item {items[0]['raw_id']} {items[0]['title']}" in shown
    assert sum(f" {item['raw_id']} " in line for item in items for line in shown.splitlines()[1:]) == 2


@given(scores=st.lists(st.integers(-3, 3), min_size=1, max_size=30), k=st.integers(0, 30))
def test_the_nearest_are_the_highest_scores_equal_ones_by_row(scores, k):
    k = min(k, len(scores))
    best = sorted(range(len(scores)), key=lambda row: (-scores[row], row))[:k]
    assert nearest(np.array(scores, dtype=np.float32), k).tolist() == best


def test_an_unknown_id_names_ids_that_are_close_or_how_ids_look(tmp_path):
    retrieval = model(tmp_path, {"0108775015": [1, 0], "0108775044": [1, 0], "0950000001": [1, 0]})
    with pytest.raises(SimilarError, match="no item '108775015'; did you mean 0108775015"):
        similar_items(retrieval, ["0950000001", "108775015"], 3)
    with pytest.raises(SimilarError, match="no item 'shirt'; ids look like 0108775015, 0108775044, 0950000001"):
        similar_items(retrieval, ["shirt"], 3)


def test_a_catalogue_of_one_item_has_nothing_like_it(tmp_path):
    (found,) = similar_items(model(tmp_path, {"x": [1, 0]}), ["x"], 5)
    assert found.items == []


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--item", "a", "--k", "0"], "--k must be at least 1, got 0"),
        (["--item", " , "], "--item must name at least one item"),
        (["--item", "a"], "the model has no item 'a'"),
    ],
)
def test_a_question_without_an_answer_says_why(words, said, small_run, capsys):
    assert main(["similar", "--run", str(small_run), *words]) == 1
    assert said in capsys.readouterr().err
