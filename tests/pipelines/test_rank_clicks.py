"""Click probabilities of raw impressions, against what the exported model says of the encoded ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from ensemble.onnx_model import OnnxModel
from features.artifact import open_artifact
from pipelines.__main__ import main
from pipelines.config import validated
from pipelines.stages import run_stages

NUM_ROWS = 400


def made_lines(seed: int) -> list[str]:
    """Rows in Criteo's form, some values missing."""
    random = np.random.default_rng(seed)
    lines = []
    for _ in range(NUM_ROWS):
        numbers = [str(value) if value < 90 else "" for value in random.integers(0, 100, 13)]
        words = [f"{value:08x}" if value < 9 else "" for value in random.integers(0, 10, 26)]
        lines.append("\t".join([str(random.integers(0, 2)), *numbers, *words]))
    return lines


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run whose test rows stand in `test.tsv` beside it."""
    base = tmp_path_factory.mktemp("impressions")
    paths = {name: base / f"{name}.tsv" for name in ("train", "valid", "test")}
    for seed, path in enumerate(paths.values()):
        path.write_text("\n".join(made_lines(seed)) + "\n")
    document = {
        "data": {"adapter": "criteo", "criteo": {"split": "files"} | {name: str(path) for name, path in paths.items()}},
        "etl": {"impressions": {"min_frequency": 1, "count_encoded": ["C1"]}},
        "ranking": {"network": {"embedding_dim": 4}, "clicks": {"max_epochs": 1}},
    }
    run_stages(validated(document, "test"), base / "run", say=lambda line: None)
    return base / "run"


def ranked(run: Path, rows: Path, out: Path) -> pa.Table:
    assert main(["rank", "--run", str(run), "--in", str(rows), "--out", str(out)]) == 0
    return pq.read_table(out)


def exported(run: Path) -> np.ndarray:
    """[N] what the exported model says of the test part."""
    model = OnnxModel(run / "ranking" / "ranker.onnx")
    table = pa.concat_tables(
        [pq.read_table(path) for path in open_artifact(run / "etl", "etl").files("examples/test/")]
    )
    return model.run({name: table[name].to_numpy() for name in model.inputs})


def test_raw_rows_get_what_the_exported_model_says_of_the_encoded_ones(run_folder, tmp_path):
    found = ranked(run_folder, run_folder.parent / "test.tsv", tmp_path / "out.parquet")
    assert found["line"].to_pylist() == list(range(1, NUM_ROWS + 1))
    np.testing.assert_allclose(found["probability"].to_numpy(), exported(run_folder), rtol=1e-6)
    assert found["problem"].null_count == NUM_ROWS


def test_rows_without_a_label_compressed_rows_and_parquet_are_the_same(run_folder, tmp_path):
    lines = (run_folder.parent / "test.tsv").read_text().splitlines()
    with gzip.open(tmp_path / "unlabelled.tsv.gz", "wt") as file:
        file.write("\n".join(line.split("\t", 1)[1] for line in lines) + "\n")
    names = [*(f"I{n}" for n in range(1, 14)), *(f"C{n}" for n in range(1, 27))]
    values = zip(*(line.split("\t")[1:] for line in lines), strict=True)
    pq.write_table(pa.table(dict(zip(names, map(list, values), strict=True))), tmp_path / "rows.parquet")
    one = ranked(run_folder, tmp_path / "unlabelled.tsv.gz", tmp_path / "one.parquet")
    assert one.equals(ranked(run_folder, run_folder.parent / "test.tsv", tmp_path / "two.parquet"))
    assert one.equals(ranked(run_folder, tmp_path / "rows.parquet", tmp_path / "three.parquet"))


def test_bad_rows_have_no_probability_and_are_named(run_folder, tmp_path, capsys):
    lines = (run_folder.parent / "test.tsv").read_text().splitlines()[:6]
    whole = ranked(run_folder, run_folder.parent / "test.tsv", tmp_path / "whole.parquet")["probability"].to_pylist()
    fields = lines[1].split("\t")
    lines[1] = "\t".join([fields[0], "many", *fields[2:]])
    lines[3] = "0\tshort"
    (tmp_path / "bad.tsv").write_text("\n".join(lines) + "\n")
    found = ranked(run_folder, tmp_path / "bad.tsv", tmp_path / "out.parquet")
    assert found["line"].to_pylist() == [1, 2, 3, 4, 5, 6]
    said = found["probability"].to_pylist()
    assert [row for row in range(6) if said[row] is None] == [1, 3]
    assert [said[row] for row in (0, 2, 4, 5)] == pytest.approx([whole[row] for row in (0, 2, 4, 5)], rel=1e-6)
    assert found["problem"][1].as_py() == "I1 is not an integer" and "columns expected" in found["problem"][3].as_py()
    error = capsys.readouterr().err
    assert "2 rows" in error and "bad.tsv, row 2: I1 is not an integer" in error and "row 4" in error


def test_a_file_without_one_good_row_is_refused(run_folder, tmp_path, capsys):
    (tmp_path / "bad.tsv").write_text("hello\nworld\n")
    words = ["--in", str(tmp_path / "bad.tsv"), "--out", str(tmp_path / "out.parquet")]
    assert main(["rank", "--run", str(run_folder), *words]) == 1
    assert "none of 2 rows can be read" in capsys.readouterr().err
    assert not (tmp_path / "out.parquet").exists()
