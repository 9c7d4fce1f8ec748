"""SignedLogNormalize: sign(x) log(1 + |x|), then mean 0 and deviation 1, for numbers of either sign."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import nvtabular.ops
import pandas as pd
from merlin.dag import DataFormats

from features.ops.keyed_statistics import numbers_of
from features.ops.log_normalize import Moments
from features.ops.partition_statistics import PartitionStatistics


class SignedLogNormalize(PartitionStatistics, nvtabular.ops.Normalize):
    """Null becomes the mean, which is 0, and does not count in it; a constant column becomes 0.

    `means` and `stds` are those of the signed logarithms; `stds` is 0 for a constant column.
    """

    def __init__(self) -> None:
        nvtabular.ops.Normalize.__init__(self, out_dtype=np.float32)

    def fit_finalize(self, dask_stats: Mapping[str, Moments]) -> None:
        for name, moments in dask_stats.items():
            self.means[name] = moments.mean
            self.stds[name] = moments.deviation

    def transform(self, col_selector, df):
        return type(df)({name: self._normalized(df[name], name) for name in col_selector.names}, index=df.index)

    @property
    def supported_formats(self) -> DataFormats:
        return DataFormats.PANDAS_DATAFRAME

    def _normalized(self, column: pd.Series, name: str) -> np.ndarray:
        centred = _signed_log(column) - self.means[name]
        scaled = centred / self.stds[name] if self.stds[name] > 0 else np.zeros_like(centred)
        return np.nan_to_num(scaled).astype(np.float32)

    def _partial(self, col_selector, frame) -> dict[str, Moments]:
        return {name: _moments(_signed_log(frame[name])) for name in col_selector.names}

    def _merge(self, partials: Sequence[dict[str, Moments]]) -> dict[str, Moments]:
        merged = dict(partials[0])
        for partial in partials[1:]:
            merged = {name: moments.merged(partial[name]) for name, moments in merged.items()}
        return merged


def _signed_log(column: pd.Series) -> np.ndarray:
    """[N] float64, NaN where unknown."""
    numbers = numbers_of(column)
    return np.copysign(np.log1p(np.abs(numbers)), numbers)


def _moments(values: np.ndarray) -> Moments:
    known = values[~np.isnan(values)]
    if not len(known):
        return Moments()
    mean = float(known.mean())
    return Moments(len(known), mean, float(np.square(known - mean).sum()))
