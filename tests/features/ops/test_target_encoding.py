from pathlib import Path

import dask
import dask.dataframe as dd
import numpy as np
import nvtabular as nvt
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from merlin.dag import ColumnSelector
from nvtabular.ops import TargetEncoding as Stock

from features.ops.target_encoding import TargetEncoding

X = ColumnSelector(["x"])
ROW = st.tuples(st.sampled_from(["a", "b", "ü"]) | st.none(), st.integers(0, 1) | st.none(), st.integers(-2, 3))
PARTS = st.lists(st.lists(ROW, max_size=15), min_size=1, max_size=4)


def frame(rows: list[tuple]) -> pd.DataFrame:
    values, targets, times = zip(*rows, strict=True) if rows else ((), (), ())
    targets = np.array([np.nan if target is None else target for target in targets], np.float64)
    return pd.DataFrame({"x": pd.Series(values, dtype=object), "y": targets, "time": np.array(times, np.int64)})


def partitions(frames: list[pd.DataFrame]) -> dd.DataFrame:
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(lambda part: part, frames, meta=frames[0].iloc[:0], enforce_metadata=False)


def encoded(operator: TargetEncoding, frames: list[pd.DataFrame]) -> list[list[float]]:
    operator.fit_finalize(operator.fit(X, partitions(frames)).compute(scheduler="synchronous"))
    return [operator.transform(X, part)["TE_x_y"].tolist() for part in frames]


def by_hand(seen: list[tuple], value: str | None, p_smooth: float, everything: list[tuple]) -> float:
    """The oracle: what a row with the value makes of the rows it may see."""
    targets = [target for _, target, _ in everything if target is not None]
    mean = sum(targets) / len(targets) if targets else 0
    found = [target for x, target, _ in seen if x == value and target is not None]
    return (sum(found) + p_smooth * mean) / (len(found) + p_smooth) if len(found) + p_smooth else mean


def random_table(num_rows: int) -> pd.DataFrame:
    draw = np.random.default_rng(0)
    columns = {"x": draw.integers(0, 9, num_rows).astype(str), "n": draw.integers(0, 3, num_rows)}
    return pd.DataFrame(columns | {"y": draw.integers(0, 2, num_rows), "z": draw.integers(0, 5, num_rows)})


@pytest.mark.parametrize("kfold", [1, 3, 5])
@pytest.mark.parametrize("p_smooth", [0, 20])
def test_it_equals_the_stock_operator(tmp_path: Path, kfold: int, p_smooth: int) -> None:
    table = random_table(3_000)
    parts = [table[:1_700], table[1_700:].reset_index(drop=True)]
    options = {"target": ["y", "z"], "kfold": kfold, "p_smooth": p_smooth, "out_path": str(tmp_path)}
    workflows = [nvt.Workflow(["x", ["n", "x"]] >> operator(**options)) for operator in (TargetEncoding, Stock)]
    found, expected = [
        workflow.fit_transform(nvt.Dataset(partitions(parts), cpu=True)).to_ddf().compute(scheduler="synchronous")
        for workflow in workflows
    ]
    pd.testing.assert_frame_equal(found, expected, check_exact=kfold == 1)
    for ours, stock in zip(*(workflow.output_schema for workflow in workflows), strict=True):
        assert (ours.name, ours.dtype, ours.tags) == (stock.name, stock.dtype, stock.tags)


def test_a_value_never_seen_gets_the_mean_of_all_as_in_the_stock_operator(tmp_path: Path) -> None:
    table = random_table(100)
    late = table[:2].assign(x=["unseen", "0"])
    for operator in (TargetEncoding("y", kfold=1), Stock("y", kfold=1, out_path=str(tmp_path))):
        workflow = nvt.Workflow(["x"] >> operator).fit(nvt.Dataset(table, cpu=True))
        assert workflow.transform(late.copy())["TE_x_y"][0] == np.float32(table["y"].mean())


@settings(deadline=None, max_examples=40)
@given(PARTS, st.sampled_from([0, 0.5, 20]))
def test_null_is_a_value_and_a_row_without_a_target_says_nothing(parts: list[list[tuple]], p_smooth: float) -> None:
    rows = [row for part in parts for row in part]
    found = encoded(TargetEncoding("y", kfold=1, p_smooth=p_smooth), [frame(part) for part in parts])
    expected = [[by_hand(rows, value, p_smooth, rows) for value, _, _ in part] for part in parts]
    for ours, hand in zip(found, expected, strict=True):
        np.testing.assert_allclose(ours, hand, rtol=1e-6)


@settings(deadline=None, max_examples=40)
@given(PARTS, st.sampled_from([0, 0.5, 20]))
def test_as_of_a_row_sees_what_came_strictly_before_in_any_partition(parts: list[list[tuple]], p_smooth: float) -> None:
    rows = [row for part in parts for row in part]
    found = encoded(TargetEncoding("y", order_by="time", p_smooth=p_smooth), [frame(part) for part in parts])
    for ours, part in zip(found, parts, strict=True):
        before = [[row for row in rows if row[2] < time] for _, _, time in part]
        hand = [by_hand(seen, row[0], p_smooth, seen) for row, seen in zip(part, before, strict=True)]
        np.testing.assert_allclose(ours, hand, rtol=1e-6)


def test_changing_the_future_changes_nothing_before_it() -> None:
    rows = [("a", 1, 0), ("b", 0, 1), ("a", 0, 2), ("b", 1, 2), (None, 1, 3), ("a", 1, 4)]
    changed = [*rows[:4], ("b", 0, 9), (None, 0, 4)]
    past, other = (encoded(TargetEncoding("y", order_by="time"), [frame(each)])[0] for each in (rows, changed))
    assert past[:4] == other[:4]


def test_a_given_mean_is_used() -> None:
    assert encoded(TargetEncoding("y", target_mean=0.25, kfold=1, p_smooth=1), [frame([("a", 1, 0)])]) == [[0.625]]


@pytest.mark.parametrize("options", [{}, {"kfold": 1}, {"order_by": "time"}], ids=str)
def test_it_survives_saving(tmp_path: Path, options: dict) -> None:
    table = random_table(300).assign(time=np.arange(300) // 7)
    workflow = nvt.Workflow(["x"] >> TargetEncoding("y", **options)).fit(nvt.Dataset(table, cpu=True))
    expected = workflow.transform(table)
    workflow.save(tmp_path / "saved")
    moved = (tmp_path / "saved").rename(tmp_path / "moved")
    pd.testing.assert_frame_equal(nvt.Workflow.load(moved).transform(table), expected)
