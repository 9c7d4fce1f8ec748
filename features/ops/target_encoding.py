"""TargetEncoding: the mean of a target over the rows with a row's value, smoothed towards the mean of all."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import nvtabular.ops
from merlin.dag import Node

from features.ops.keyed_statistics import KeyedStatistics, numbers_of


class TargetEncoding(KeyedStatistics, nvtabular.ops.TargetEncoding):
    """Makes a column `TE_<column>_<target>` of each column or group: (sum + p_smooth mean) / (count + p_smooth).

    NVTabular's operator, with its folds, and its numbers where it has them right. Different on purpose: null is a value
    like any other (NVTabular counts its rows as 0 and below), a row without a target says nothing (NVTabular: it is 0),
    and a row that was not fitted on sees the other folds whether or not its own has the value.

    Args:
        target: one or more columns of numbers, or a node that makes them.
        target_mean: the mean of all; by default it is measured, as of the row's moment if `order_by` is given (0 before
            the first moment).
        kfold: folds of which a row sees all but its own; 1: a row sees all rows, itself included.
        fold_seed: draws the folds.
        p_smooth: rows that the mean of all counts as.
        order_by: column of whole numbers or moments; a row sees the rows before its own moment.
        out_path: folder for the statistics until the workflow is saved; by default a temporary one.
    Raises: KeyedStatisticsError if order_by and kfold are both given, or the order column has nulls.
    Source: Micci-Barreca, SIGKDD Explorations 2001.
    """

    def __init__(
        self,
        target: Any,
        target_mean: float | None = None,
        kfold: int | None = None,
        fold_seed: int | None = 42,
        p_smooth: float = 20,
        out_dtype: Any = None,
        order_by: str | None = None,
        out_path: Path | str | None = None,
        name_sep: str = "_",
    ) -> None:
        stock = {"p_smooth": p_smooth, "out_dtype": out_dtype, "name_sep": name_sep}
        nvtabular.ops.TargetEncoding.__init__(self, target, **stock)
        self.target_mean = target_mean
        self._set_view(kfold or (1 if order_by else 3), fold_seed, order_by, out_path)
        self._order = None if order_by is None else Node.construct_from(order_by)

    def transform(self, col_selector, df):
        encoded = {}
        for name, columns in self._keyed_groups(col_selector).items():
            seen, total = self._seen(df, name, columns)
            for number, target in enumerate(self.target_columns):
                count, sums = seen[:, 2 * number], seen[:, 2 * number + 1]
                mean = self._mean_of_all(total[..., 2 * number], total[..., 2 * number + 1])
                encoded[f"TE_{name}_{target}"] = self._smoothed(count, sums, mean).astype(self.output_dtype)
        return type(df)(encoded, index=df.index)

    @property
    def dependencies(self):
        return self.target if self._order is None else [self.target, self._order]

    def _smoothed(self, count: np.ndarray, sums: np.ndarray, mean: Any) -> np.ndarray:
        rows = count + self.p_smooth
        return np.where(rows > 0, (sums + self.p_smooth * mean) / np.where(rows > 0, rows, 1), mean)

    def _mean_of_all(self, count: np.ndarray, sums: np.ndarray) -> Any:
        if self.target_mean is not None:
            return self.target_mean
        return np.where(count > 0, sums / np.where(count > 0, count, 1), 0)

    def _measures(self, frame) -> np.ndarray:
        measures: list[np.ndarray] = []
        for target in self.target_columns:
            numbers = numbers_of(frame[target])
            known = ~np.isnan(numbers)
            measures += [known.astype(np.float64), np.where(known, numbers, 0)]
        return np.column_stack(measures)
