import copy

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.dag import ColumnSelector
from merlin.schema import ColumnSchema
from nvtabular.ops import ListSlice

from features.ops.pad_list import PadList
from features.schema import list_length

ROWS = st.lists(st.lists(st.integers(0, 9), max_size=7), min_size=1, max_size=8)


def padded(rows: list, length: int, pad_value: int = 0) -> list:
    frame = pd.DataFrame({"ids": pd.Series(rows, dtype=object)})
    return [list(row) for row in PadList(length, pad_value).transform(ColumnSelector(["ids"]), frame)["ids"]]


@given(ROWS, st.integers(1, 9), st.integers(-1, 3))
def test_on_lists_it_does_what_the_stock_operator_does(rows: list[list[int]], length: int, pad_value: int) -> None:
    frame = pd.DataFrame({"ids": pd.Series(copy.deepcopy(rows), dtype=object)})
    stock = ListSlice(length, pad=True, pad_value=pad_value).transform(ColumnSelector(["ids"]), frame)["ids"]
    assert padded(rows, length, pad_value) == [list(row) for row in stock]


@given(ROWS, st.integers(1, 9))
def test_on_arrays_every_row_gets_the_length(rows: list[list[int]], length: int) -> None:
    assert padded([np.array(row, np.int64) for row in rows], length) == [
        row[:length] + [0] * (length - len(row)) for row in rows
    ]


@settings(deadline=None)
@given(st.lists(st.none() | st.lists(st.integers(0, 9), max_size=7), max_size=8), st.integers(1, 9), st.integers(0, 3))
def test_arrow_lists_become_what_lists_of_objects_become(rows: list, length: int, begin: int) -> None:
    for kind in (pa.list_(pa.int32()), pa.large_list(pa.int32())):
        lists = pa.chunked_array([pa.array(rows, kind)[begin:], pa.array(rows, kind)])
        frame = pd.DataFrame({"ids": pd.arrays.ArrowExtensionArray(lists)}, index=range(5, 5 + len(lists)))
        found = PadList(length, 1).transform(ColumnSelector(["ids"]), frame)["ids"]
        assert found.dtype == pd.ArrowDtype(pa.list_(pa.int32(), length)) and found.index.equals(frame.index)
        assert [list(row) for row in found] == padded(rows[begin:] + rows, length, 1)


def test_arrow_lists_of_fixed_length_numbers_with_fractions_and_nulls_are_padded() -> None:
    for kind, rows in [(pa.list_(pa.float64(), 2), [[0.5, None], None, [1.5, 2.5]]), (pa.list_(pa.null()), [[], None])]:
        frame = pd.DataFrame({"ids": pd.arrays.ArrowExtensionArray(pa.array(rows, kind))})
        found = PadList(3).transform(ColumnSelector(["ids"]), frame)["ids"]
        expected = [[value or 0 for value in [*(row or []), 0, 0, 0][:3]] for row in rows]
        assert [list(row) for row in found] == expected


@pytest.mark.parametrize("rows", [[], [[]], [None], [[], None, np.empty(0)]])
def test_no_rows_empty_rows_and_null_rows_are_padded(rows: list) -> None:
    assert padded(rows, 3) == [[0, 0, 0]] * len(rows)


def test_numbers_with_fractions_keep_them() -> None:
    assert padded([[0.5], [1.5, 2.5, 3.5]], 2) == [[0.5, 0.0], [1.5, 2.5]]


def test_the_schema_tells_the_length() -> None:
    column = ColumnSchema("ids", dtype=np.int64, is_list=True, is_ragged=True)
    assert list_length(PadList(4)._compute_shape(column, None)) == 4


def test_the_row_index_is_kept() -> None:
    frame = pd.DataFrame({"ids": [[1], [2]]}, index=[7, 3])
    assert PadList(1).transform(ColumnSelector(["ids"]), frame).index.tolist() == [7, 3]
