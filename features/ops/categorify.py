"""Categorify: NVTabular's, with dictionary-encoded columns counted and looked up once a value instead of once a row."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import nvtabular.ops
import pandas as pd
import pyarrow as pa
from dask import delayed

from features.errors import CascadeError
from features.ops.arrow_column import arrow_series, chunks, holds_lists, like_lists, object_series
from features.ops.interner import Interner, InternerError
from features.ops.partition_statistics import FAN_IN, PartitionStatistics
from features.ops.value_counts import ValueCounts, by_frequency, counted, merged, value_type
from features.ops.vocabulary_file import (
    Vocabulary,
    keep_vocabulary,
    load_vocabulary,
    read_values,
    vocabulary_of,
    write_vocabulary,
)
from features.schema import FIRST_KNOWN, UNSEEN


class VocabularyError(CascadeError, ValueError):
    """A vocabulary is missing, or cannot be one."""


class Categorify(PartitionStatistics, nvtabular.ops.Categorify):
    """Encodes values as ids: 0 padding, 1 null, 2 unseen or too rare, 3 and up by descending frequency.

    The ids are those of NVTabular's operator, and so are the files and the schema. Values of equal frequency come in
    ascending order (text by its UTF-8 bytes); NVTabular leaves that order to an unstable sort. Columns are text or
    numbers, plain or in lists, of Arrow (dictionary-encoded is fastest), NumPy or Python objects; lists keep their
    form, and a null list becomes an empty one. Columns grouped in the selector (`[["item_id", "history"]]`) share a
    vocabulary, named after them ("item_id_history").

    Args:
        freq_threshold: rows that a value needs to get an id; for all columns, or by column.
        max_size: ids at most, the 3 reserved ones included; for all columns, or by column; 0: no limit.
        vocabulary: column, or group, -> distinct values that keep their ids 3, 4, ... whatever the data say. Values
            that fitting finds besides get the ids behind them.
        grow: False: only what is in `vocabulary` gets an id, and there is nothing to fit.
        dtype: of the ids, int64 by default.
        out_path: folder for the vocabularies until the workflow is saved; by default a temporary one, which is deleted
            when the process ends. Workers must see it.
    Raises: VocabularyError if a vocabulary holds a value twice, or is missing where nothing is fitted.
    """

    def __init__(
        self,
        freq_threshold: int | Mapping[str, int] = 0,
        max_size: int | Mapping[str, int] = 0,
        vocabulary: Mapping[Any, Any] | None = None,
        grow: bool = True,
        dtype: Any = None,
        out_path: Path | str | None = None,
        name_sep: str = "_",
    ) -> None:
        out_path = str(out_path or tempfile.mkdtemp(dir=_scratch().name))
        stock = {"freq_threshold": freq_threshold, "max_size": max_size, "dtype": dtype, "name_sep": name_sep}
        nvtabular.ops.Categorify.__init__(self, out_path=out_path, **stock)
        self.grow = grow
        self.num_base: dict[str, int] = {}
        for group, values in (vocabulary or {}).items():
            name = group if isinstance(group, str) else name_sep.join(group)
            known = _distinct(values, name)
            self.num_base[name] = len(known)
            self.categories[name] = self._write(name, ValueCounts(known, np.zeros(len(known), np.int64)))

    def fit(self, col_selector, ddf) -> Any:
        groups = self._groups(col_selector)
        self.storage_name = {column: name for name, columns in groups.items() for column in columns if column != name}
        if not self.grow:
            if missing := [name for name in groups if name not in self.num_base]:
                raise VocabularyError(f"with grow=False every column needs a vocabulary; {missing} have none")
            return delayed(dict)()
        if not isinstance(ddf._meta, pd.DataFrame) and not self.num_base:
            return nvtabular.ops.Categorify.fit(self, col_selector, ddf)
        partials = [delayed(self._partial)(col_selector, part) for part in ddf.to_delayed()]
        return delayed(dict)([(name, self._numbered(name, partials)) for name in groups])

    def clear(self) -> None:
        self.categories = {name: path for name, path in self.categories.items() if name in self.num_base}

    def set_storage_path(self, new_path, copy: bool = False) -> None:
        before = dict(self.categories)
        super().set_storage_path(new_path, copy=copy)
        for name, path in self.categories.items():
            if copy and path != before[name]:
                keep_vocabulary(path, load_vocabulary(before[name], name), self)

    def vocabulary(self, column: str) -> pa.Array:
        """The values of a column, or group, in the order of their ids, of which the first is 3."""
        name = self.storage_name.get(column, column)
        if name not in self.categories:
            raise VocabularyError(f"no vocabulary for {name!r}, only for {sorted(self.categories)}; fit the workflow")
        return read_values(self.categories[name], name)

    def transform(self, col_selector, df):
        if not isinstance(df, pd.DataFrame):
            return super().transform(col_selector, df)
        encoded = {name: self._encoded(df[name], name) for name in col_selector.names}
        return pd.DataFrame(encoded, index=df.index, copy=False)

    def _encoded(self, column: pd.Series, name: str) -> np.ndarray | pd.Series:
        storage_name = self.storage_name.get(name, name)
        known = load_vocabulary(self.categories[storage_name], storage_name)
        parts = chunks(column)
        try:
            if any(holds_lists(part) for part in parts):
                return self._encoded_lists(known, parts, column)
            ids = [known.ids(part, self.output_dtype) for part in parts]
        except InternerError as error:
            raise InternerError(f"column {name!r} and its vocabulary must hold the same type: {error}") from error
        return ids[0] if len(ids) == 1 else np.concatenate([np.empty(0, self.output_dtype), *ids])

    def _encoded_lists(self, known: Vocabulary, parts: Sequence[pa.Array], column: pd.Series) -> pd.Series:
        encoded = [like_lists(part, known.ids(part.flatten(), self.output_dtype)) for part in parts]
        if column.dtype == object:
            return object_series(encoded[0], column.index)
        return arrow_series(pa.chunked_array(encoded), column.index)

    def _groups(self, col_selector) -> dict[str, list[str]]:
        """Name of the vocabulary -> its columns."""
        groups = [[group] if isinstance(group, str) else list(group) for group in col_selector.grouped_names]
        names = [column for group in groups for column in group]
        if repeated := {name for name in names if names.count(name) > 1}:
            raise ValueError(f"a column has one vocabulary; {sorted(repeated)} stand in more than one group")
        return {self.name_sep.join(group): group for group in groups}

    def _partial(self, col_selector, frame) -> dict[str, ValueCounts]:
        return {
            name: counted([chunk for column in columns for chunk in chunks(frame[column])])
            for name, columns in self._groups(col_selector).items()
        }

    def _numbered(self, name: str, partials: Sequence[Any]) -> Any:
        """The path of one vocabulary, delayed: columns are merged apart from each other, to share out the work."""
        groups = [partials[begin : begin + FAN_IN] for begin in range(0, len(partials), FAN_IN)]
        found = [delayed(_merged_column)(name, group) for group in groups]
        while len(found) > FAN_IN:
            found = [delayed(merged)(found[begin : begin + FAN_IN]) for begin in range(0, len(found), FAN_IN)]
        return delayed(self._finish)(name, found)

    def _finish(self, name: str, parts: Sequence[ValueCounts]) -> str:
        """Number the values of one vocabulary and write them. Returns the path."""
        num_base = self.num_base.get(name, 0)
        base = read_values(self.categories[name], name).slice(0, num_base) if num_base else pa.nulls(0)
        known = [values for values in (base, *(part.values for part in parts)) if len(values)]
        interner = Interner(value_type([values.type for values in known]))
        interner.add(base)
        found = merged(parts, interner)
        codes = self._chosen(name, found, num_base)
        ordered = ValueCounts(found.values.take(pa.array(codes)), found.sizes[codes], found.num_nulls)
        path = self._write(name, ordered, int(found.sizes.sum() - ordered.sizes.sum()))
        id_of_code = np.full(len(interner) + 1, UNSEEN, np.int32)
        id_of_code[codes] = np.arange(FIRST_KNOWN, FIRST_KNOWN + len(codes), dtype=np.int32)
        keep_vocabulary(path, Vocabulary(interner, id_of_code), self)
        return path

    def _chosen(self, name: str, found: ValueCounts, num_base: int) -> np.ndarray:
        """Codes of the values that get an id, in the order of the ids."""
        new = np.arange(num_base, len(found.values))
        new = new[found.sizes[new] >= _of(self.freq_threshold, name)]
        new = new[by_frequency(ValueCounts(found.values.take(pa.array(new)), found.sizes[new]))]
        if max_size := _of(self.max_size, name):
            new = new[: max(max_size - FIRST_KNOWN - num_base, 0)]
        return np.concatenate([np.arange(num_base), new])

    def _write(self, name: str, ordered: ValueCounts, num_unseen_rows: int = 0) -> str:
        return str(write_vocabulary(Path(self.out_path) / "categories", name, ordered, num_unseen_rows))


def _distinct(values: Any, name: str) -> pa.Array:
    known = values if isinstance(values, pa.Array) else pa.array(values, from_pandas=True)
    known = known.drop_null()
    if pa.types.is_null(known.type):
        return known.cast(pa.string())
    if len(vocabulary_of(known).interner) < len(known):
        raise VocabularyError(f"the values of a vocabulary must be distinct; that of {name!r} repeats some")
    return known


def _of(option: int | Mapping[str, int], name: str) -> int:
    return option if isinstance(option, int) else option[name]


@cache
def _scratch() -> tempfile.TemporaryDirectory:
    return tempfile.TemporaryDirectory(prefix="cascade-categories-")


def _merged_column(name: str, partials: Sequence[dict[str, ValueCounts]]) -> ValueCounts:
    return merged([partial[name] for partial in partials])
