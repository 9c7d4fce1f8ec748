"""KeyedStatistics: what CountEncoding and TargetEncoding share: sums by value, and three answers to who may see them.

- plain (`kfold=1`): a row sees all rows the operator was fitted on, itself included.
- out of fold (`kfold > 1`): a row sees the rows of the other folds. A row's fold depends on its place in its partition
  and the seed alone, as in NVTabular's TargetEncoding: partitions must be the same when fitting and transforming.
- as of (`order_by`): a row sees the rows with a strictly smaller value of the order column, in whatever partition; rows
  that were not fitted on see what came before them. The statistics have one entry per value and moment.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from dask import delayed
from nvtabular.ops.categorify import _copy_storage
from nvtabular.ops.target_encoding import _add_fold

from features.errors import CascadeError
from features.ops.arrow_column import chunks, whole
from features.ops.as_of_sums import AsOfSums, SeenBefore, merged_as_of, summed_as_of
from features.ops.file_cache import FileCache
from features.ops.keyed_sums import KeyedSums, SeenSums, merged_sums, summed
from features.ops.partition_statistics import PartitionStatistics

Sums = KeyedSums | AsOfSums


class KeyedStatisticsError(CascadeError, ValueError):
    """Options that exclude each other, or an order column with nulls."""


class KeyedStatistics(PartitionStatistics):
    """Mixin for a StatOperator; the operator gives `_measures(frame)`, float64 [rows, measures]."""

    stats: dict[str, str]
    """Name of the group -> its file."""
    name_sep: str
    out_path: str

    def _set_view(self, kfold: int, fold_seed: int | None, order_by: str | None, out_path: Path | str | None) -> None:
        if order_by is not None and kfold > 1:
            raise KeyedStatisticsError(f"order_by={order_by!r} and kfold={kfold} exclude each other; leave out one")
        self.kfold, self.fold_seed, self.order_by = kfold, fold_seed, order_by
        self.out_path = str(out_path or tempfile.mkdtemp(dir=_scratch().name))
        self.stats = {}

    def fit(self, col_selector, ddf) -> Any:
        partials = self._partials(col_selector, ddf)
        names = self._keyed_groups(col_selector)
        return delayed(dict)([(name, delayed(self._finish)(name, partials)) for name in names])

    def fit_finalize(self, dask_stats: dict[str, str]) -> None:
        self.stats = dict(dask_stats)

    def clear(self) -> None:
        self.stats = {}

    def set_storage_path(self, new_path, copy: bool = False) -> None:
        self.stats = _copy_storage(self.stats, self.out_path, new_path, copy)
        self.out_path = str(new_path)

    def _measures(self, frame) -> np.ndarray:
        raise NotImplementedError(f"{type(self).__name__} must say what is summed")

    def _keyed_groups(self, col_selector) -> dict[str, list[str]]:
        groups = [[group] if isinstance(group, str) else list(group) for group in col_selector.grouped_names]
        return {self.name_sep.join(group): group for group in groups}

    def _seen(self, frame, name: str, columns: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
        """Sums [rows, measures] that each row may see of its value, and of all values ([measures], or by row)."""
        table = _tables.get(self.stats[name], lambda: self._load(self.stats[name]))
        keys = _keys(frame, columns)
        if isinstance(table, SeenBefore):
            moments = self._moments(frame)
            return table.seen(keys, moments), table.total(moments)
        return table.seen(keys, self._folds(frame)), table.total()

    def _partial(self, col_selector, frame) -> dict[str, Sums]:
        measures = self._measures(frame)
        groups = self._keyed_groups(col_selector).items()
        if self.order_by is not None:
            moments = self._moments(frame)
            return {name: summed_as_of(_keys(frame, columns), moments, measures) for name, columns in groups}
        folds = self._folds(frame)
        return {name: summed(_keys(frame, columns), folds, measures, self.kfold) for name, columns in groups}

    def _merge(self, partials: Sequence[dict[str, Any]]) -> dict[str, Sums]:
        merge = merged_sums if self.order_by is None else merged_as_of
        return {name: merge([partial[name] for partial in partials]) for name in partials[0]}

    def _finish(self, name: str, partials: Sequence[dict[str, Any]]) -> str:
        table = self._merge([{name: partial[name]} for partial in partials])[name].to_table()
        folder = Path(self.out_path) / "statistics"
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{type(self).__name__}.{name}.parquet"
        building = path.with_name(f".{path.name}.{os.getpid()}")
        pq.write_table(table, building)
        os.replace(building, path)
        return str(path)

    def _load(self, path: str) -> SeenSums | SeenBefore:
        table = pq.read_table(path)
        if self.order_by is not None:
            return SeenBefore(AsOfSums.from_table(table))
        return SeenSums(KeyedSums.from_table(table, self.kfold))

    def _folds(self, frame) -> np.ndarray:
        if self.kfold <= 1:
            return np.zeros(len(frame), np.uint8)
        return np.asarray(_add_fold(pd.RangeIndex(len(frame)), self.kfold, self.fold_seed))

    def _moments(self, frame) -> np.ndarray:
        moments = pa.chunked_array(chunks(frame[self.order_by]))
        if moments.null_count:
            raise KeyedStatisticsError(
                f"the order column {self.order_by!r} must say when every row was, got {moments.null_count} nulls in "
                f"{len(moments)} rows; fill them, or drop the rows"
            )
        if pa.types.is_floating(moments.type):
            moments = moments.cast(pa.int64())  # raises if there are fractions
        return moments.to_numpy().astype(np.int64)


def numbers_of(column) -> np.ndarray:
    """A column as float64 [rows], NaN for null."""
    return np.asarray(whole(column).to_numpy(zero_copy_only=False), dtype=np.float64)


def _keys(frame, columns: Sequence[str]) -> list[pa.Array]:
    """What identifies a row's value: the column itself; of several columns, their values as one text."""
    if len(columns) == 1:
        return chunks(frame[columns[0]])
    texts = []
    for column in columns:
        text = pc.cast(whole(frame[column]), pa.string())
        length = pc.cast(pc.binary_length(text), pa.string())
        texts.append(pc.binary_join_element_wise(length, text, ":"))  # "a:" + "b" is not "a" + ":b"
    return [pc.binary_join_element_wise(*texts, ",", null_handling="replace", null_replacement="-")]


_tables: FileCache[SeenSums | SeenBefore] = FileCache()


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="cascade-statistics-")
