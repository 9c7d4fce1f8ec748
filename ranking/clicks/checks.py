"""What a click model refuses to learn from: the checks of an impression artifact's examples.

The etl stage writes nothing of the kind. The checks cost one pass over the columns, a small part of an epoch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from merlin.schema import Schema, Tags

from features.artifact import Artifact
from features.errors import CascadeError
from features.schema import list_length, load_schema, num_categories, select

# W ids of all categorical features, one feature behind the other, in schema order


class ClickDataError(CascadeError, ValueError):
    """Examples that a click model cannot use; the message names file, column and row."""


class ClickSchemaError(ClickDataError):
    """The columns are not those of impressions."""


class LabelError(ClickDataError):
    """A label is neither 0 nor 1, or all are the same."""


class NumberError(ClickDataError):
    """A number is missing, nan or infinite."""


class CategoryIdError(ClickDataError):
    """A category id is missing, or outside the vocabulary."""


def click_schema(etl: Artifact) -> Schema:
    """The schema of an impression artifact: one label, at least one number and one category.

    Raises: ClickSchemaError.
    """
    path = etl.file("schema.json")
    schema = load_schema(path)
    labels = select(schema, Tags.TARGET).column_names
    numbers, categories = (select(schema, tag).column_names for tag in (Tags.CONTINUOUS, Tags.CATEGORICAL))
    if len(labels) != 1 or not numbers or not categories:
        raise ClickSchemaError(
            f"{path}: a click model needs one column tagged target, and at least one continuous and one categorical; "
            f"got the labels {labels}, {len(numbers)} numbers and {len(categories)} categories; rerun `etl` on an "
            "impression log such as Criteo's"
        )
    return schema


def label_name(schema: Schema) -> str:
    return select(schema, Tags.TARGET).column_names[0]


@dataclass(frozen=True, eq=False)
class PartStatistics:
    """What one pass over a part of the examples finds."""

    num_rows: int
    num_clicks: int
    id_count_W: np.ndarray
    """[W] rows with each id, as int64."""

    @property
    def click_rate(self) -> float:
        """Share of clicks, between 0 and 1 and neither."""
        return self.num_clicks / self.num_rows


def checked_statistics(paths: Sequence[Path], schema: Schema) -> PartStatistics:
    """Look at every value of one part.

    Args:
        paths: parquet files with the columns of the schema.
    Raises: ClickSchemaError if a column is missing; LabelError, NumberError or CategoryIdError for the first value that
        cannot be used; LabelError if there is no row, no click, or nothing but clicks.
    """
    label, num_rows, num_clicks = label_name(schema), 0, 0
    counts = {column.name: np.zeros(num_categories(column), np.int64) for column in select(schema, Tags.CATEGORICAL)}
    for path, first, table in _row_groups(paths, schema):
        _check_group(table, schema, path, first)
        num_rows += len(table)
        num_clicks += pc.sum(table[label], min_count=0).as_py()
        for name, count in counts.items():
            count += np.bincount(_elements(table[name]).to_numpy(), minlength=len(count))
    if not 0 < num_clicks < num_rows:
        raise LabelError(
            f"{paths[0].parent}: column {label!r} has {num_clicks} clicks in {num_rows} rows, needed clicks and others "
            "to learn and to measure; give more rows, or split them otherwise, and rerun `etl`"
        )
    return PartStatistics(num_rows, num_clicks, np.concatenate(list(counts.values())))


def _row_groups(paths: Sequence[Path], schema: Schema) -> Iterator[tuple[Path, int, pa.Table]]:
    """File, number of its first row there, and the rows."""
    for path in paths:
        with pq.ParquetFile(path) as file:
            if missing := [name for name in schema.column_names if name not in file.schema_arrow.names]:
                raise ClickSchemaError(f"{path}: the columns {missing} of the schema are missing; rerun `etl`")
            _check_types(file.schema_arrow, schema, path)
            first = 0
            for group in range(file.num_row_groups):
                table = file.read_row_group(group, columns=schema.column_names)
                yield path, first, table
                first += len(table)


def _check_types(arrow: pa.Schema, schema: Schema, path: Path) -> None:
    for column in schema:
        found = arrow.field(column.name).type
        plain = found.value_type if pa.types.is_fixed_size_list(found) else found
        is_number = pa.types.is_floating(plain)
        if Tags.TARGET in column.tags:
            is_good, needed = is_number or pa.types.is_integer(plain), "numbers, 0 or 1"
        elif Tags.CATEGORICAL in column.tags:
            is_good, needed = pa.types.is_integer(plain), "integers, the ids of categories"
        else:
            is_good, needed = is_number, "floating point numbers"
        if not is_good or pa.types.is_fixed_size_list(found) != column.is_list:
            lists = "lists of a fixed length of " if column.is_list else ""
            raise ClickSchemaError(
                f"{path}: column {column.name!r} has the type {found}, needed {lists}{needed}; rerun `etl`"
            )


def _check_group(table: pa.Table, schema: Schema, path: Path, first: int) -> None:
    for column in schema:
        values = _elements(table[column.name])
        per_row = list_length(column) or 1
        if Tags.TARGET in column.tags:
            is_good, error, needed = pc.is_in(values, pa.array([0, 1], values.type)), LabelError, "0 or 1"
        elif Tags.CATEGORICAL in column.tags:
            num_ids = num_categories(column)
            is_good = pc.and_(pc.greater_equal(values, 0), pc.less(values, num_ids))
            error, needed = CategoryIdError, f"an id of the vocabulary, 0..{num_ids - 1}"
        else:
            is_good, error, needed = pc.is_finite(values), NumberError, "a finite number"
        is_good = pc.fill_null(is_good, False)
        if pc.all(is_good, min_count=0).as_py():
            continue
        place = pc.index(is_good, False).as_py()
        raise error(
            f"{path}: column {column.name!r}, row {first + place // per_row} (the first is 0) is "
            f"{values[place].as_py()}, needed {needed}; correct the log there and rerun `etl`"
        )


def _elements(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The elements of lists, one list after the other, padding included; other columns as they are."""
    return pc.list_flatten(column) if pa.types.is_fixed_size_list(column.type) else column
