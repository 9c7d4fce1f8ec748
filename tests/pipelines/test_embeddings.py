"""Vectors of users and items in a file for other systems."""

from __future__ import annotations

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.artifact import open_artifact
from features.list_column import matrix_of
from pipelines import embeddings
from pipelines.__main__ import main


@pytest.mark.parametrize("entity", ["users", "items"])
def test_the_file_holds_the_vectors_of_the_model_under_the_ids_of_the_log(entity, small_run, tmp_path, capsys):
    out = tmp_path / "vectors.parquet"
    assert main(["embeddings", entity, "--run", str(small_run), "--out", str(out)]) == 0
    one = entity.removesuffix("s")
    written = pq.read_table(out)
    source = pq.read_table(small_run / "retrieval" / f"{one}_vectors.parquet")
    assert written.column_names == [f"{one}_id", "vector"]
    assert written[f"{one}_id"].to_pylist() == source["raw_id"].to_pylist()
    assert np.array_equal(matrix_of(written["vector"]), matrix_of(source["vector"]))
    width = source.schema.field("vector").type.list_size
    assert written.schema.field("vector").type == pa.list_(pa.float32(), width)
    about = json.loads(written.schema.metadata[b"cascade"])
    manifest = json.loads((small_run / "retrieval" / "manifest.json").read_text())
    assert (about["model"], about["width"], about["taste_coordinates"]) == (manifest["content_hash"], width, 16)
    assert capsys.readouterr().out == f"wrote {out}: {len(source)} {entity}, vectors of {width} numbers\n"


def test_row_groups_are_copied_one_at_a_time(small_run, tmp_path, monkeypatch):
    monkeypatch.setattr(embeddings, "ROWS_PER_GROUP", 32)
    retrieval = open_artifact(small_run / "retrieval", "retrieval")
    assert embeddings.write_embeddings(retrieval, "items", tmp_path / "a.parquet")[0] == 80
    file = pq.ParquetFile(tmp_path / "a.parquet")
    assert [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)] == [32, 32, 16]


def test_users_and_items_together_give_the_scores_that_the_index_answers_with(small_run, tmp_path):
    from retrieval.index import load, search

    for entity in embeddings.ENTITIES:
        retrieval = open_artifact(small_run / "retrieval", "retrieval")
        embeddings.write_embeddings(retrieval, entity, tmp_path / f"{entity}.parquet")
    user_UE, item_IE = (matrix_of(pq.read_table(tmp_path / f"{one}.parquet")["vector"]) for one in embeddings.ENTITIES)
    rows, scores = search(load(small_run / "index" / "index.faiss"), user_UE[:20], 5)
    exact = user_UE[:20] @ item_IE.T
    assert np.allclose(np.take_along_axis(exact, rows, axis=1), scores, atol=1e-4)
    assert np.allclose(-np.sort(-exact, axis=1)[:, :5], scores, atol=1e-4)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "none/a.parquet"], "there is no folder none"),
        (["--out", "a.parquet", "--run", "none"], "none: there is no such run"),
        (["--out", "a.parquet", "--run", "empty"], "is not a finished retrieval artifact; run `retrieval` first"),
    ],
)
def test_without_a_model_or_a_place_to_write_it_says_what_to_do(words, said, small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "empty").mkdir()
    run = [] if "--run" in words else ["--run", str(small_run)]
    assert main(["embeddings", "users", *words, *run]) == 1
    assert said in capsys.readouterr().err and not (tmp_path / "a.parquet").exists()
