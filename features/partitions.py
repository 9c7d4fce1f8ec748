"""Tables in parts: what NVTabular reads part by part, so that memory does not grow with the rows.

A part becomes a frame whose text and list columns stay Arrow arrays (text dictionary-encoded, as Parquet stores it),
and whose numbers are NumPy arrays, if they need no null; cudf frames on a GPU.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import dask.dataframe as dd
import numpy as np
import nvtabular as nvt
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from merlin.schema import ColumnSchema, Schema

from features.schema import list_length

ROWS_PER_PART = 250_000
"""Rows that a task holds in memory, about."""


class Source(Protocol):
    """A table in parts. It travels to worker processes, so it holds places, not data."""

    @property
    def schema(self) -> pa.Schema: ...

    def __len__(self) -> int:
        """Number of parts; none of them is empty."""
        ...

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        """The rows of a part; the same on every call."""
        ...


@dataclass(frozen=True)
class ParquetParts:
    """Row groups of Parquet files, small ones joined up to about ROWS_PER_PART rows."""

    schema: pa.Schema
    parts: tuple[tuple[tuple[str, tuple[int, ...]], ...], ...]
    """A part is one or more (path, row groups)."""

    @classmethod
    def of(cls, paths: Sequence[Path], rows_per_part: int = ROWS_PER_PART) -> ParquetParts:
        """The files' row groups in order; all files have the first one's columns."""
        parts: list[list[tuple[str, tuple[int, ...]]]] = []
        num_rows = rows_per_part
        for path in paths:
            metadata = pq.read_metadata(path)
            for group in range(metadata.num_row_groups):
                rows = metadata.row_group(group).num_rows
                if not rows:
                    continue
                if num_rows + rows > rows_per_part:
                    parts.append([])
                    num_rows = 0
                num_rows += rows
                parts[-1] = _joined(parts[-1], str(path), group)
        return cls(pq.read_schema(paths[0]), tuple(map(tuple, parts)))

    def __len__(self) -> int:
        return len(self.parts)

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        text = [name for name in columns if _is_text(self.schema.field(name).type)]
        tables = []
        for path, groups in self.parts[part]:
            with pq.ParquetFile(path, read_dictionary=text) as file:
                tables.append(file.read_row_groups(list(groups), columns=list(columns), use_threads=False))
        return pa.concat_tables(tables)


@dataclass(frozen=True)
class TableParts:
    """A table in memory."""

    table: pa.Table
    rows_per_part: int = ROWS_PER_PART

    @property
    def schema(self) -> pa.Schema:
        return self.table.schema

    def __len__(self) -> int:
        return -(-len(self.table) // self.rows_per_part)

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        return self.table.select(list(columns)).slice(part * self.rows_per_part, self.rows_per_part)


def dataset_of(source: Source, on_gpu: bool = False) -> nvt.Dataset:
    """A Merlin dataset over a source, which must have a part."""
    reader = _Reader(source, tuple(source.schema.names), on_gpu)
    meta = frame_of(source.schema.empty_table(), on_gpu)
    frame = dd.from_map(reader, range(len(source)), meta=meta, enforce_metadata=False)
    schema = Schema([ColumnSchema(field.name, dtype=_merlin_dtype(field.type)) for field in source.schema])
    return nvt.Dataset(frame, cpu=not on_gpu, schema=schema)


def frame_of(table: pa.Table, on_gpu: bool = False) -> Any:
    """What operators read: text, lists and whole numbers with nulls as Arrow arrays, other numbers as NumPy arrays."""
    if on_gpu:
        import cudf  # pyright: ignore[reportMissingImports]

        return cudf.DataFrame.from_arrow(table)
    columns = {}
    for name, column in zip(table.column_names, table.columns, strict=True):
        if _is_number(column.type) and not (column.null_count and pa.types.is_integer(column.type)):
            columns[name] = column.to_numpy()
        else:
            columns[name] = pd.arrays.ArrowExtensionArray(column)
    return pd.DataFrame(columns, index=pd.RangeIndex(len(table)), copy=False)


def table_of(frame: Any, schema: Schema) -> pa.Table:
    """A frame that a workflow returned, in the types of its output schema."""
    if not isinstance(frame, pd.DataFrame):
        return frame.to_arrow(preserve_index=False).select(schema.column_names)
    return pa.table({column.name: _column(frame[column.name], column) for column in schema})


def empty_table(schema: Schema) -> pa.Table:
    """No rows, in the types of a workflow's output schema."""
    kinds = {}
    for column in schema:
        kind = pa.from_numpy_dtype(column.dtype.to_numpy)
        kinds[column.name] = pa.list_(kind, list_length(column)) if column.is_list else kind
    return pa.schema(kinds).empty_table()


@dataclass(frozen=True)
class _Reader:
    """Reads one part as a frame; Dask narrows `columns` to those that are used."""

    source: Source
    columns: tuple[str, ...]
    on_gpu: bool

    def project_columns(self, columns: Sequence[str]) -> _Reader:
        return _Reader(self.source, tuple(columns), self.on_gpu)

    def __call__(self, part: int) -> Any:
        return frame_of(self.source.read(part, self.columns), self.on_gpu)


def _column(values: pd.Series, column: ColumnSchema) -> pa.Array:
    dtype = column.dtype.to_numpy
    if isinstance(values.dtype, pd.ArrowDtype):
        array = pa.array(values.array)
        return array.combine_chunks() if isinstance(array, pa.ChunkedArray) else array
    if values.dtype == object:  # rows of arrays
        flat = np.concatenate(values.to_list()) if len(values) else np.empty(0, dtype)
        length = len(flat) // max(len(values), 1)
        return pa.FixedSizeListArray.from_arrays(pa.array(flat.astype(dtype, copy=False)), length)
    return pa.array(values.to_numpy().astype(dtype, copy=False))


def _joined(part: list[tuple[str, tuple[int, ...]]], path: str, group: int) -> list[tuple[str, tuple[int, ...]]]:
    if part and part[-1][0] == path:
        return [*part[:-1], (path, (*part[-1][1], group))]
    return [*part, (path, (group,))]


def _merlin_dtype(kind: pa.DataType) -> Any:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        return _merlin_dtype(kind.value_type)
    return "str" if _is_text(kind) else kind.to_pandas_dtype()


def _is_text(kind: pa.DataType) -> bool:
    return pa.types.is_string(kind) or pa.types.is_large_string(kind)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)
