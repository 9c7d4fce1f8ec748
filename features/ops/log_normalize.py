"""LogNormalize: log(1 + x), then mean 0 and deviation 1, in one operator and one pass over the data."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import nvtabular.ops
import pandas as pd
import pyarrow.compute as pc
from merlin.dag import DataFormats
from numba import njit

from features.errors import CascadeError
from features.ops.arrow_column import whole
from features.ops.partition_statistics import PartitionStatistics

SMALLEST_SPREAD = 1e-7
"""Deviation, relative to the mean, below which a column counts as constant: float32 cannot tell its values apart."""
_BLOCK = 4096


class LogNormalizeError(CascadeError, ValueError):
    """The bounds leave values whose logarithm does not exist."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations from the mean."""

    count: int = 0
    mean: float = 0.0
    squares: float = 0.0

    def merged(self, other: Moments) -> Moments:
        """Of both sets of numbers together. Source: Chan, Golub & LeVeque, 1979."""
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        step = other.mean - self.mean
        return Moments(
            count,
            self.mean + step * other.count / count,
            self.squares + other.squares + step * step * self.count * other.count / count,
        )

    @property
    def deviation(self) -> float:
        """Of a sample (n - 1); 0 for a single number, and for numbers that differ by rounding alone."""
        found = math.sqrt(self.squares / (self.count - 1)) if self.count > 1 else 0.0
        return found if found > SMALLEST_SPREAD * abs(self.mean) else 0.0


class LogNormalize(PartitionStatistics, nvtabular.ops.Normalize):
    """What NVTabular's FillMissing >> Clip >> LogOp >> Normalize(out_dtype=float32) make of columns of numbers.

    A constant column becomes 0. `means` and `stds` are those of the logarithms; `stds` is 0 for a constant column.

    Args:
        clip_min: smaller numbers become this one.
        clip_max: larger numbers become this one; None: no limit.
        fill: stands for null, before clipping.
    Raises: LogNormalizeError unless -1 < clip_min <= clip_max.
    """

    def __init__(self, clip_min: float = 0, clip_max: float | None = None, fill: float = 0) -> None:
        nvtabular.ops.Normalize.__init__(self, out_dtype=np.float32)
        if not -1 < clip_min <= (math.inf if clip_max is None else clip_max):
            raise LogNormalizeError(
                f"log(1 + x) needs -1 < clip_min <= clip_max, got clip_min={clip_min} and clip_max={clip_max}"
            )
        self.clip_min = clip_min
        self.clip_max = clip_max
        self.fill = fill

    def fit_finalize(self, dask_stats: Mapping[str, Moments]) -> None:
        for name, moments in dask_stats.items():
            self.means[name] = moments.mean
            self.stds[name] = moments.deviation

    def transform(self, col_selector, df):
        if not isinstance(df, pd.DataFrame):
            return super().transform(col_selector, self._stock_logarithms(col_selector, df))
        return pd.DataFrame(
            {name: self._normalized(df[name], name) for name in col_selector.names}, index=df.index, copy=False
        )

    @property
    def supported_formats(self) -> DataFormats:
        return DataFormats.PANDAS_DATAFRAME | DataFormats.CUDF_DATAFRAME

    def _normalized(self, column: pd.Series, name: str) -> np.ndarray:
        logarithms = self._logarithms(column)
        logarithms -= np.float32(self.means[name])
        if self.stds[name] > 0:
            logarithms /= np.float32(self.stds[name])
        return logarithms

    def _logarithms(self, column: pd.Series) -> np.ndarray:
        if isinstance(column.dtype, pd.ArrowDtype):
            values = pc.fill_null(whole(column), self.fill).to_numpy(zero_copy_only=False)
        else:
            values = column.to_numpy()
        logarithms = np.empty(len(values), np.float32)
        largest = math.inf if self.clip_max is None else self.clip_max
        _clip_and_add_1(values, float(self.fill), float(self.clip_min), float(largest), logarithms)
        return np.log(logarithms, out=logarithms)

    def _partial(self, col_selector, frame) -> dict[str, Moments]:
        if isinstance(frame, pd.DataFrame):
            return {name: Moments(*_moments(self._logarithms(frame[name]))) for name in col_selector.names}
        logged = self._stock_logarithms(col_selector, frame)
        return {name: _moments_of_cudf(logged[name]) for name in col_selector.names}

    def _merge(self, partials: Sequence[dict[str, Moments]]) -> dict[str, Moments]:
        merged = dict(partials[0])
        for partial in partials[1:]:
            merged = {name: moments.merged(partial[name]) for name, moments in merged.items()}
        return merged

    def _stock_logarithms(self, col_selector, frame):
        clip = nvtabular.ops.Clip(self.clip_min, self.clip_max)
        for operator in (nvtabular.ops.FillMissing(self.fill), clip, nvtabular.ops.LogOp()):
            frame = operator.transform(col_selector, frame)
        return frame


def _moments_of_cudf(column) -> Moments:
    if not len(column):
        return Moments()
    values = column.astype("float64")
    return Moments(len(values), float(values.mean()), float(values.var(ddof=0)) * len(values))


@njit(nogil=True, cache=True)
def _clip_and_add_1(values, fill, smallest, largest, clipped):
    for row in range(len(values)):
        value = np.float64(values[row])
        if value != value:
            value = fill
        clipped[row] = np.float32(min(max(value, smallest), largest)) + np.float32(1)


@njit(nogil=True, cache=True)
def _moments(values):
    """Count, mean and squared deviations, block by block in the rows' order."""
    count, mean, squares = 0, 0.0, 0.0
    for begin in range(0, len(values), _BLOCK):
        block = values[begin : begin + _BLOCK]
        total = 0.0
        for value in block:
            total += value
        block_mean = total / len(block)
        block_squares = 0.0
        for value in block:
            block_squares += (value - block_mean) ** 2
        step = block_mean - mean
        both = count + len(block)
        mean += step * len(block) / both
        squares += block_squares + step * step * count * len(block) / both
        count = both
    return count, mean, squares
