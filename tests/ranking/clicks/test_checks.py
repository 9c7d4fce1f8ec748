"""Columns of another type than a click model reads, and ids in lists; values are in test_batches.py."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags

from ranking.clicks.checks import CategoryIdError, ClickSchemaError, LabelError, checked_statistics

DOMAIN = {"domain": {"min": 0, "max": 6, "name": "C1"}}
COLUMNS = [
    ColumnSchema("label", dtype="int8", tags=[Tags.TARGET]),
    ColumnSchema("I1", dtype="float32", tags=[Tags.CONTINUOUS]),
    ColumnSchema("C1", dtype="int32", tags=[Tags.CATEGORICAL], properties=DOMAIN),
]
LIST = ColumnSchema(
    "L1",
    dtype="int32",
    tags=[Tags.CATEGORICAL],
    properties={"domain": {"min": 0, "max": 6, "name": "L1"}},
    dims=((0, None), (2, 2)),
)
IDS = pa.list_(pa.int32(), 2)


def table(**changed: pa.Array) -> pa.Table:
    columns = {
        "label": pa.array([0, 1, 0, 1], pa.int8()),
        "I1": pa.array([0.5, -1.0, 2.0, 0.0], pa.float32()),
        "C1": pa.array([3, 4, 5, 6], pa.int32()),
        "L1": pa.array([[3, 0], [3, 4], [0, 0], [5, 6]], IDS),
    }
    return pa.table(columns | changed)


def statistics(folder: Path, rows: pa.Table):
    pq.write_table(rows, folder / "part_0.parquet")
    return checked_statistics([folder / "part_0.parquet"], Schema([*COLUMNS, LIST]))


def test_what_the_etl_stage_writes_is_counted(tmp_path: Path):
    found = statistics(tmp_path, table())
    assert (found.num_rows, found.num_clicks) == (4, 2)
    assert found.id_count_W.tolist() == [0, 0, 0, 1, 1, 1, 1, 3, 0, 0, 2, 1, 1, 1]


def test_labels_may_be_numbers_of_any_type_but_nothing_between_0_and_1(tmp_path: Path):
    assert statistics(tmp_path, table(label=pa.array([0.0, 1.0, 1.0, 1.0]))).num_clicks == 3
    for value in (0.5, float("nan"), 2.0, -1.0):
        with pytest.raises(LabelError, match=r"column 'label', row 2 .* needed 0 or 1"):
            statistics(tmp_path, table(label=pa.array([0.0, 1.0, value, 1.0])))


@pytest.mark.parametrize(
    ("name", "values", "said"),
    [
        ("label", ["0", "1", "0", "1"], r"column 'label' has the type string, needed numbers, 0 or 1"),
        ("I1", ["a", "b", "c", "d"], r"column 'I1' has the type string, needed floating point numbers"),
        ("I1", [1, 2, 3, 4], r"column 'I1' has the type int64, needed floating point numbers"),
        ("C1", ["68fd1e64", "a", "b", "c"], r"column 'C1' has the type string, needed integers, the ids"),
        ("C1", [3.0, 4.0, 5.0, 6.0], r"column 'C1' has the type double, needed integers"),
        ("L1", [3, 4, 5, 6], r"column 'L1' has the type int64, needed lists of a fixed length of integers"),
        ("C1", pa.array([[3, 3]] * 4, IDS), r"column 'C1' has the type fixed_size_list.*, needed integers"),
    ],
)
def test_a_column_of_another_type_is_refused_by_name(tmp_path: Path, name: str, values, said: str):
    with pytest.raises(ClickSchemaError, match=said):
        statistics(tmp_path, table(**{name: values if isinstance(values, pa.Array) else pa.array(values)}))


def test_an_id_outside_the_vocabulary_in_a_list_is_named_by_its_row(tmp_path: Path):
    with pytest.raises(CategoryIdError, match=r"column 'L1', row 3 .* is 7, needed an id of the vocabulary, 0\.\.6"):
        statistics(tmp_path, table(L1=pa.array([[3, 0], [3, 4], [0, 0], [5, 7]], IDS)))


def test_one_bad_row_among_many_row_groups_is_named_by_its_place_in_the_file(tmp_path: Path):
    random = np.random.default_rng(0)
    columns = {
        "label": random.integers(0, 2, 5_000).astype(np.int8),
        "I1": random.normal(size=5_000).astype(np.float32),
        "C1": random.integers(0, 7, 5_000).astype(np.int32),
    }
    columns["C1"][4_321] = 700
    pq.write_table(pa.table(columns), tmp_path / "part.parquet", row_group_size=1_000)
    with pytest.raises(CategoryIdError, match=r"row 4321 \(the first is 0\) is 700"):
        checked_statistics([tmp_path / "part.parquet"], Schema(COLUMNS))
