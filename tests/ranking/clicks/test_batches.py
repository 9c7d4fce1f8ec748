"""Streaming impressions, and the values that are refused."""

import threading
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags

from features.artifact import Artifact, open_artifact, writing
from features.errors import CascadeError
from features.schema import save_schema
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import (
    CategoryIdError,
    ClickSchemaError,
    LabelError,
    NumberError,
    checked_statistics,
    click_schema,
)

LABEL = ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])
NUMBER = ColumnSchema("I1", dtype="float32", tags=[Tags.CONTINUOUS])
CATEGORY = ColumnSchema(
    "C1", dtype="int32", tags=[Tags.CATEGORICAL], properties={"domain": {"min": 0, "max": 6, "name": "C1"}}
)
SCHEMA = Schema([LABEL, NUMBER, CATEGORY])


@pytest.fixture
def parts(tmp_path: Path) -> list[Path]:
    """Two files of 60 and 40 rows; I1 counts them through."""
    paths = [tmp_path / f"part_{number}.parquet" for number in range(2)]
    for path, rows in zip(paths, (np.arange(60), np.arange(60, 100)), strict=True):
        columns = {"label": rows % 4 == 0, "I1": rows, "C1": rows % 5}
        types = {"label": np.int8, "I1": np.float32, "C1": np.int32}
        pq.write_table(pa.table({name: columns[name].astype(types[name]) for name in columns}), path, row_group_size=25)
    return paths


def put(path: Path, column: str, row: int, value: object) -> None:
    table = pq.read_table(path)
    values = table[column].to_pylist()
    values[row] = value
    place = table.column_names.index(column)
    table = table.set_column(place, column, pa.array(values, table.schema.field(column).type))
    pq.write_table(table, path, row_group_size=25)


def numbers(batches) -> list[float]:
    return [value for batch in batches for value in batch["I1"].tolist()]


def test_statistics_are_those_of_all_files(parts: list[Path]):
    found = checked_statistics(parts, SCHEMA)
    assert (found.num_rows, found.num_clicks, found.click_rate) == (100, 25, 0.25)
    assert found.id_count_W.tolist() == [20, 20, 20, 20, 20, 0, 0]


def test_in_order_means_the_order_of_the_files(parts: list[Path]):
    batches = ClickBatches(parts, SCHEMA, 32, 0)
    found = list(batches.in_order())
    assert numbers(found) == list(range(100))
    assert [len(batch["label"]) for batch in found] == [32, 32, 32, 4]
    assert set(found[0]) == {"label", "I1", "C1"}


def test_an_epoch_has_every_row_once_in_another_order_and_the_same_one_again(parts: list[Path]):
    batches, again = ClickBatches(parts, SCHEMA, 32, 7), ClickBatches(parts, SCHEMA, 32, 7)
    first, second = numbers(batches.epoch(0)), numbers(batches.epoch(1))
    assert sorted(first) == sorted(second) == list(range(100))
    assert first != second and first != list(range(100))
    assert numbers(again.epoch(1)) == second
    assert numbers(ClickBatches(parts, SCHEMA, 32, 8).epoch(0)) != first


def test_a_batch_keeps_its_rows_together(parts: list[Path]):
    for batch in ClickBatches(parts, SCHEMA, 32, 0).epoch(0):
        assert batch["C1"].tolist() == [int(value) % 5 for value in batch["I1"].tolist()]
        assert batch["label"].tolist() == [int(value % 4 == 0) for value in batch["I1"].tolist()]


def test_who_leaves_early_leaves_no_thread_behind(parts: list[Path]):
    before = threading.active_count()
    stream = ClickBatches(parts, SCHEMA, 8, 0).epoch(0)
    next(stream)
    stream.close()
    assert threading.active_count() == before


@pytest.mark.parametrize(
    ("column", "value", "error", "said"),
    [
        ("label", 2, LabelError, r"is 2, needed 0 or 1"),
        ("label", None, LabelError, r"is None, needed 0 or 1"),
        ("I1", float("nan"), NumberError, r"is nan, needed a finite number"),
        ("I1", float("-inf"), NumberError, r"is -inf, needed a finite number"),
        ("I1", None, NumberError, r"is None, needed a finite number"),
        ("C1", 7, CategoryIdError, r"is 7, needed an id of the vocabulary, 0\.\.6"),
        ("C1", -1, CategoryIdError, r"is -1, needed an id of the vocabulary"),
        ("C1", None, CategoryIdError, r"is None, needed an id of the vocabulary"),
    ],
)
def test_a_value_that_cannot_be_used_is_named(parts: list[Path], column, value, error, said):
    put(parts[1], column, 33, value)
    with pytest.raises(error, match=rf"part_1\.parquet: column '{column}', row 33 .*{said}.*rerun `etl`") as caught:
        ClickBatches(parts, SCHEMA, 32, 0)
    assert isinstance(caught.value, CascadeError)


@pytest.mark.parametrize("label", [0, 1])
def test_a_label_that_never_changes_is_refused(parts: list[Path], label: int):
    for path in parts:
        table = pq.read_table(path)
        pq.write_table(table.set_column(0, "label", pa.array([label] * len(table), pa.int8())), path)
    with pytest.raises(LabelError, match=rf"column 'label' has {label * 100} clicks in 100 rows, needed clicks and"):
        ClickBatches(parts, SCHEMA, 32, 0)


def test_no_rows_are_refused(parts: list[Path]):
    pq.write_table(pq.read_table(parts[0]).slice(0, 0), parts[0])
    with pytest.raises(LabelError, match="0 clicks in 0 rows"):
        ClickBatches(parts[:1], SCHEMA, 32, 0)


def test_a_missing_column_is_refused(parts: list[Path]):
    pq.write_table(pq.read_table(parts[1]).drop_columns("I1"), parts[1])
    with pytest.raises(ClickSchemaError, match=r"part_1\.parquet: the columns \['I1'\] of the schema are missing"):
        ClickBatches(parts, SCHEMA, 32, 0)


def with_schema(path: Path, *columns: ColumnSchema) -> Artifact:
    with writing(path, "etl", {}, 0, {}) as writer:
        save_schema(Schema(columns), writer.path / "schema.json")
    return open_artifact(path, "etl")


def test_a_schema_is_read_as_it_was_written(tmp_path: Path):
    assert click_schema(with_schema(tmp_path / "etl", *SCHEMA)).column_names == ["label", "I1", "C1"]


@pytest.mark.parametrize("kept", [[NUMBER, CATEGORY], [LABEL, CATEGORY], [LABEL, NUMBER]])
def test_an_artifact_without_labels_numbers_or_categories_is_no_impression_log(tmp_path: Path, kept):
    with pytest.raises(ClickSchemaError, match=r"schema\.json: a click model needs one column tagged target"):
        click_schema(with_schema(tmp_path / "etl", *kept))
