"""`cascade synth`: it writes whole folders or nothing, and says which argument is wrong."""

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.logs.click_world import ClickWorldConfig
from features.logs.click_world_log import COLUMNS, ClickWorldLog
from features.logs.impression_config import ImpressionTableConfig
from features.logs.impression_table import ImpressionTable
from features.logs.quarantine import Quarantine
from features.split import SplitConfig
from pipelines.synth import FORMATS, SynthError, synth


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(("shape", "form"), [(shape, form) for shape, forms in FORMATS.items() for form in forms])
def test_each_shape_and_form_is_written_and_reported(tmp_path: Path, shape: str, form: str) -> None:
    said: list[str] = []
    synth(shape, tmp_path / "new" / "logs", rows=1000, file_format=form, say=said.append)
    stems = {
        "hm": ["articles", "customers", "transactions_train"],
        "criteo": [f"day_{day}" for day in range(24)],
        "clicks": ["impressions", "probability"],
    }[shape]
    assert names(tmp_path / "new" / "logs") == sorted(f"{stem}.{form}" for stem in stems)
    assert names(tmp_path / "new") == ["logs"]
    assert len(said) == len(stems) + 1
    assert said[-1].endswith(str(tmp_path / "new" / "logs"))


def test_the_same_arguments_give_the_same_bytes(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        synth("hm", tmp_path / folder, rows=1000, users=50, items=60, seed=4, say=lambda line: None)
    for name in names(tmp_path / "a"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()


def test_users_follow_the_rows_and_items_their_square_root(tmp_path: Path) -> None:
    said: list[str] = []
    synth("hm", tmp_path / "logs", rows=31_788, file_format="parquet", say=said.append)
    assert "articles.parquet: 3,338 rows" in said[0]
    assert "customers.parquet: 1,372 rows" in said[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shape": "movielens"}, "the shape must be one of hm, criteo, clicks, got 'movielens'"),
        ({"file_format": "tsv"}, "--format must be one of csv, csv.gz, parquet for hm, got 'tsv'"),
        ({"rows": 0}, "--rows must be at least 1, got 0"),
        ({"users": 9}, "--users must be at least 10, got 9"),
        ({"items": 2_000_000}, "--items must be at least 50 and at most 1,500,000, got 2000000"),
        ({"seed": -1}, "--seed must be at least 0, got -1"),
        ({"shape": "criteo", "users": 100}, "--users and --items are for hm and clicks"),
        ({"shape": "clicks", "rows": 99}, "--rows must be at least 100 for clicks, got 99"),
    ],
)
def test_impossible_arguments_are_named(tmp_path: Path, arguments: dict, message: str) -> None:
    with pytest.raises(SynthError, match=re.escape(message)):
        synth(**({"shape": "hm", "out": tmp_path / "logs"} | arguments))
    assert names(tmp_path) == []


def test_a_folder_that_holds_something_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text("kept")
    with pytest.raises(SynthError, match="is not empty; give another --out"):
        synth("hm", tmp_path, rows=100)
    with pytest.raises(SynthError, match="is a file"):
        synth("hm", tmp_path / "mine.csv", rows=100)
    assert (tmp_path / "mine.csv").read_text() == "kept"


def test_an_empty_folder_is_filled_and_an_interrupted_run_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "logs"
    out.mkdir()

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        synth("criteo", out, rows=100, say=stop)
    assert names(tmp_path) == ["logs"]
    assert names(out) == []
    synth("criteo", out, rows=100, say=lambda line: None)
    assert len(names(out)) == 24


def test_a_click_world_written_and_read_by_a_mapping_is_the_one_that_its_adapter_makes(tmp_path: Path) -> None:
    synth("clicks", tmp_path / "logs", rows=2_000, users=50, items=60, seed=4, file_format="csv", say=lambda line: None)
    made = ClickWorldLog(ClickWorldConfig(num_users=50, num_items=60, num_impressions=2_000, seed=4), SplitConfig())
    plain = [name for name in COLUMNS.categorical if name not in ("user_id", "item_id")]
    config = ImpressionTableConfig(
        path=str(tmp_path / "logs" / "impressions.csv"),
        label="clicked",
        timestamp="timestamp",
        user_id="user_id",
        item_id="item_id",
        categorical={name: name for name in plain},
        continuous={name: name for name in COLUMNS.real},
    )
    read = ImpressionTable(config, SplitConfig())
    tables = [pa.concat_tables([block.columns for block in log.blocks(0, Quarantine())]) for log in (made, read)]
    assert read.split() == made.split()
    for name in (*COLUMNS.real, *COLUMNS.categorical, "timestamp"):
        expected, found = (table[name].to_pylist() for table in tables)
        assert found == pytest.approx(expected) if name in COLUMNS.real else found == expected
    truth = np.loadtxt(tmp_path / "logs" / "probability.csv", skiprows=1)
    np.testing.assert_allclose(truth, np.concatenate(list(made.true_probability().values())))
