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
from nvtabular import ops

from features.ops.log_normalize import LogNormalize, LogNormalizeError, Moments

X = ColumnSelector(["x"])
NUMBERS = st.lists(st.floats(0, 20), max_size=20)


def partitions(frames: list[pd.DataFrame]) -> dd.DataFrame:
    with dask.config.set({"dataframe.convert-string": False}):
        return dd.from_map(lambda part: part, frames, meta=frames[0].iloc[:0], enforce_metadata=False)


def fitted(operator: LogNormalize, frames: list[pd.DataFrame], scheduler: str = "synchronous") -> LogNormalize:
    operator.fit_finalize(operator.fit(X, partitions(frames)).compute(scheduler=scheduler))
    return operator


def moments_of(numbers: list[float]) -> Moments:
    array = np.array(numbers)
    return Moments(len(array), array.mean(), ((array - array.mean()) ** 2).sum()) if numbers else Moments()


def skewed(num_rows: int, share_null: float = 0.2) -> np.ndarray:
    draw = np.random.default_rng(0)
    numbers = np.floor(np.exp(draw.normal(3, 2, num_rows))) - 2
    return np.where(draw.random(num_rows) < share_null, np.nan, numbers)


@pytest.mark.parametrize("bounds", [(0, None, 0), (0, 50, 3), (-0.5, 100, -1), (2, None, 0)])
def test_it_equals_the_stock_chain(bounds: tuple) -> None:
    clip_min, clip_max, fill = bounds
    tables = [pd.DataFrame({"x": part, "y": part[::-1]}) for part in np.split(skewed(9_000), 3)]
    dataset = nvt.Dataset(partitions(tables), cpu=True)
    clipped = ["x", "y"] >> ops.FillMissing(fill) >> ops.Clip(clip_min, clip_max)
    stock = nvt.Workflow(clipped >> ops.LogOp() >> ops.Normalize(out_dtype=np.float32))
    ours = nvt.Workflow(["x", "y"] >> LogNormalize(*bounds))
    expected = stock.fit_transform(dataset).to_ddf().compute(scheduler="synchronous")
    found = ours.fit_transform(dataset).to_ddf().compute(scheduler="synchronous")
    pd.testing.assert_frame_equal(found, expected, rtol=1e-5, atol=1e-5)
    assert ours.output_schema["x"].dtype == stock.output_schema["x"].dtype
    assert ours.output_schema["x"].tags == stock.output_schema["x"].tags


@pytest.mark.parametrize("form", ["float32", "float64", "int64", "arrow"])
def test_every_form_of_numbers_gives_the_same(form: str) -> None:
    numbers = skewed(500, share_null=0 if form == "int64" else 0.2)
    arrow = pa.array(numbers, from_pandas=True).cast(pa.int64())
    forms = {"arrow": pd.arrays.ArrowExtensionArray(pa.chunked_array([arrow[:99], arrow[99:]]))}
    frame = pd.DataFrame(
        {"x": forms.get(form, numbers.astype(form if form != "arrow" else float))}, index=range(7, 507)
    )
    logs = np.log1p(np.maximum(np.nan_to_num(numbers), 0))
    found = fitted(LogNormalize(), [frame]).transform(X, frame)["x"]
    np.testing.assert_allclose(found, (logs - logs.mean()) / logs.std(ddof=1), atol=2e-6)
    assert found.dtype == np.float32 and found.index.equals(frame.index)


@settings(deadline=None)
@given(st.lists(NUMBERS, min_size=1, max_size=5))
def test_merged_moments_are_those_of_all_numbers(parts: list[list[float]]) -> None:
    merged = Moments()
    for part in parts:
        merged = merged.merged(moments_of(part))
    expected = moments_of([number for part in parts for number in part])
    assert merged.count == expected.count
    assert merged.mean == pytest.approx(expected.mean, abs=1e-12)
    assert merged.squares == pytest.approx(expected.squares, abs=1e-9)


def test_merging_keeps_small_deviations_from_a_large_mean() -> None:
    near = np.random.default_rng(0).normal(1e8, 1e-2, (50, 1000))
    merged = Moments()
    for part in near:
        merged = merged.merged(moments_of(part.tolist()))
    assert np.sqrt(merged.squares / (near.size - 1)) == pytest.approx(near.std(ddof=1), rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 7.0, 1e9, np.nan])
def test_a_constant_column_becomes_0(value: float) -> None:
    frames = [pd.DataFrame({"x": np.full(size, value)}) for size in (3, 0, 9_999)]
    operator = fitted(LogNormalize(), frames)
    assert operator.stds == {"x": 0.0}
    assert all((operator.transform(X, frame)["x"] == 0).all() for frame in frames)


def test_columns_without_rows_have_moments() -> None:
    operator = fitted(LogNormalize(), [pd.DataFrame({"x": np.empty(0)})])
    assert operator.means == {"x": 0.0} and operator.stds == {"x": 0.0}


def test_schedulers_give_the_same_bits() -> None:
    frames = [pd.DataFrame({"x": part}) for part in np.split(skewed(20_000), 20)]
    found = [fitted(LogNormalize(), frames, scheduler) for scheduler in ("synchronous", "threads", "processes")]
    assert found[0].means == found[1].means == found[2].means
    assert found[0].stds == found[1].stds == found[2].stds


def test_it_survives_saving(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": skewed(100)})
    workflow = nvt.Workflow(["x"] >> LogNormalize(clip_max=9)).fit(nvt.Dataset(frame, cpu=True))
    workflow.save(tmp_path)
    pd.testing.assert_frame_equal(nvt.Workflow.load(tmp_path).transform(frame), workflow.transform(frame))


def test_the_callers_frame_stays_as_it_is() -> None:
    frame = pd.DataFrame({"x": [1.0, np.nan, -5.0]})
    fitted(LogNormalize(), [frame]).transform(X, frame)
    assert frame["x"].tolist()[0] == 1 and frame["x"].tolist()[2] == -5 and np.isnan(frame["x"][1])


@pytest.mark.parametrize("bounds", [(-1, None), (3, 2)])
def test_bounds_without_logarithms_are_refused(bounds: tuple) -> None:
    with pytest.raises(LogNormalizeError, match="needs -1 < clip_min <= clip_max"):
        LogNormalize(*bounds)
