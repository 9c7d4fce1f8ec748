from collections import Counter
from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.dag import ColumnSelector
from nvtabular.ops import JoinGroupby
from nvtabular.ops.target_encoding import _add_fold

from features.ops.count_encoding import CountEncoding
from features.ops.keyed_statistics import KeyedStatisticsError

VALUE = st.sampled_from(["a", "b", "ü", "", "a long one, too"]) | st.none()
ROWS = st.lists(st.tuples(VALUE, st.integers(-2, 3)), max_size=15)
X = ColumnSelector(["x"])


def frame(rows: list[tuple], form: str = "objects") -> pd.DataFrame:
    values = pa.array([value for value, _ in rows], pa.string())
    column = values.to_pandas() if form == "objects" else pd.arrays.ArrowExtensionArray(values.dictionary_encode())
    return pd.DataFrame({"x": column, "time": np.array([time for _, time in rows], np.int64)})


def partitions(frames: list[pd.DataFrame]) -> dd.DataFrame:
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(lambda part: part, frames, meta=frames[0].iloc[:0], enforce_metadata=False)


def counted(operator: CountEncoding, frames: list[pd.DataFrame], selector: ColumnSelector = X) -> list[list[int]]:
    operator.fit_finalize(operator.fit(selector, partitions(frames)).compute(scheduler="synchronous"))
    return [operator.transform(selector, part).iloc[:, 0].tolist() for part in frames]


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(["objects", "dictionary"]))
def test_a_row_counts_all_rows_with_its_value(parts: list[list[tuple]], form: str) -> None:
    sizes = Counter(value for rows in parts for value, _ in rows if value is not None)
    operator = CountEncoding()
    assert counted(operator, [frame(rows, form) for rows in parts]) == [[sizes[v] for v, _ in rows] for rows in parts]
    assert operator.transform(X, frame([("unseen", 0), (None, 0)]))["x_count"].tolist() == [0, 0]


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=4), st.sampled_from(["objects", "dictionary"]))
def test_as_of_a_row_counts_what_came_strictly_before_in_any_partition(parts: list, form: str) -> None:
    rows = [row for part in parts for row in part]
    expected = [[sum(v == x and t < time for v, t in rows) if x is not None else 0 for x, time in p] for p in parts]
    operator = CountEncoding(order_by="time")
    assert counted(operator, [frame(part, form) for part in parts]) == expected
    late = operator.transform(X, frame([(value, 99) for value in ("a", "b", "unseen")]))["x_count"]
    assert late.tolist() == [sum(v == value for v, _ in rows) for value in ("a", "b", "unseen")]


@settings(deadline=None, max_examples=40)
@given(st.lists(ROWS, min_size=1, max_size=4), st.integers(2, 4))
def test_out_of_fold_a_row_counts_the_rows_of_other_folds(parts: list[list[tuple]], kfold: int) -> None:
    folds = [_add_fold(pd.RangeIndex(len(rows)), kfold, 42) for rows in parts]
    rows = [
        (value, fold) for part, of in zip(parts, folds, strict=True) for (value, _), fold in zip(part, of, strict=True)
    ]
    expected = [
        [
            sum(v == x and f != fold for v, f in rows) if x is not None else 0
            for (x, _), fold in zip(part, of, strict=True)
        ]
        for part, of in zip(parts, folds, strict=True)
    ]
    assert counted(CountEncoding(kfold=kfold), [frame(part) for part in parts]) == expected


def test_counts_are_those_of_the_stock_operator(tmp_path: Path) -> None:
    draw = np.random.default_rng(0)
    table = pd.DataFrame({"x": draw.integers(0, 20, 999).astype(str), "n": draw.integers(0, 3, 999), "y": 1.0})
    table["w"] = draw.integers(0, 4, 999).astype(str)
    table["x"] = table["x"].where(draw.random(999) > 0.1, None)
    dataset = nvt.Dataset(partitions([table[:500], table[500:].reset_index(drop=True)]), cpu=True)
    columns = ["x", ["n", "w"]]
    stock = nvt.Workflow(columns >> JoinGroupby(cont_cols=["y"], stats=["count"], out_path=str(tmp_path)))
    ours = nvt.Workflow(columns >> CountEncoding())
    expected = stock.fit_transform(dataset).to_ddf().compute(scheduler="synchronous")
    found = ours.fit_transform(dataset).to_ddf().compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(found.reset_index(drop=True), expected.reset_index(drop=True))
    assert ours.output_schema["x_count"].dtype == stock.output_schema["x_count"].dtype


def test_groups_count_pairs_and_keep_similar_pairs_apart() -> None:
    rows = pd.DataFrame({"a": ["x", "x,1:", None, "x"], "b": ["1:y", "y", "y", "1:y"]})
    selector = ColumnSelector([["a", "b"]])
    assert counted(CountEncoding(), [rows.iloc[:2], rows.iloc[2:]], selector) == [[2, 1], [1, 2]]


@pytest.mark.parametrize("options", [{}, {"kfold": 3}, {"order_by": "time"}], ids=str)
def test_it_survives_saving_and_schedulers_change_nothing(tmp_path: Path, options: dict) -> None:
    draw = np.random.default_rng(1)
    rows = list(zip(draw.integers(0, 9, 400).astype(str), draw.integers(0, 50, 400).tolist(), strict=True))
    frames = [frame(rows[begin : begin + 20]) for begin in range(0, 400, 20)]
    operators = [CountEncoding(**options, out_path=tmp_path / name) for name in ("synchronous", "threads")]
    for operator, scheduler in zip(operators, ("synchronous", "threads"), strict=True):
        operator.fit_finalize(operator.fit(X, partitions(frames)).compute(scheduler=scheduler))
    files = [Path(operator.stats["x"]).read_bytes() for operator in operators]
    assert files[0] == files[1]
    workflow = nvt.Workflow(["x"] >> CountEncoding(**options)).fit(nvt.Dataset(partitions(frames), cpu=True))
    expected = workflow.transform(frames[3])
    workflow.save(tmp_path / "saved")
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    pd.testing.assert_frame_equal(nvt.Workflow.load(moved).transform(frames[3]), expected)


def test_views_that_exclude_each_other_and_rows_without_a_moment_are_refused() -> None:
    with pytest.raises(KeyedStatisticsError, match="exclude each other"):
        CountEncoding(kfold=2, order_by="time")
    with pytest.raises(KeyedStatisticsError, match="'time' must say when every row was, got 1 nulls in 2 rows"):
        counted(CountEncoding(order_by="time"), [pd.DataFrame({"x": ["a", "b"], "time": [1.0, np.nan]})])
