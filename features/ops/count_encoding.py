"""CountEncoding: how many rows have a row's value."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from merlin.dag.ops.stat_operator import StatOperator
from merlin.schema import Tags

from features.ops.arrow_column import chunks
from features.ops.keyed_statistics import KeyedStatistics


class CountEncoding(KeyedStatistics, StatOperator):
    """Makes a column `<column>_count` of each column or group (`[["a", "b"]]`: rows with the same pair).

    Equals NVTabular's JoinGroupby(stats=["count"]) with `kfold=1`; a value never seen has the count 0, and so has null
    (of a group: a row that is null in all its columns).

    Args:
        kfold: folds of which a row sees all but its own; 1: a row sees all rows.
        fold_seed: draws the folds.
        order_by: column of whole numbers or moments; a row counts the rows before its own moment.
        out_path: folder for the statistics until the workflow is saved; by default a temporary one.
    Raises: KeyedStatisticsError if order_by and kfold are both given, or the order column has nulls.
    """

    def __init__(
        self,
        kfold: int = 1,
        fold_seed: int | None = 42,
        order_by: str | None = None,
        out_path: Path | str | None = None,
        name_sep: str = "_",
    ) -> None:
        super().__init__()
        self.name_sep = name_sep
        self._set_view(kfold, fold_seed, order_by, out_path)

    def transform(self, col_selector, df):
        counts = {}
        for name, columns in self._keyed_groups(col_selector).items():
            seen, _ = self._seen(df, name, columns)
            counts[f"{name}_count"] = np.where(_all_null(df, columns), 0, seen[:, 0]).astype(np.int32)
        return type(df)(counts, index=df.index)

    def column_mapping(self, col_selector):
        return {f"{name}_count": columns for name, columns in self._keyed_groups(col_selector).items()}

    def compute_selector(self, input_schema, selector, parents_selector, dependencies_selector):
        self._validate_matching_cols(input_schema, parents_selector, "computing input selector")
        return parents_selector

    @property
    def dependencies(self):
        return [] if self.order_by is None else [self.order_by]

    @property
    def output_dtype(self):
        return np.int32

    @property
    def output_tags(self):
        return [Tags.CONTINUOUS]

    def _measures(self, frame) -> np.ndarray:
        return np.ones((len(frame), 1))


def _all_null(frame, columns: list[str]) -> np.ndarray:
    found = np.ones(len(frame), bool)
    for column in columns:
        found &= np.concatenate([np.empty(0, bool), *[np.asarray(chunk.is_null()) for chunk in chunks(frame[column])]])
    return found
