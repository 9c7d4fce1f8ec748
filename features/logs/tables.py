"""Adapter `tables`: any CSV, TSV or Parquet files, with a column mapping in the TOML."""

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.logs import convert
from features.logs.contract import FeatureColumns, LogError, Logs
from features.logs.convert import TimestampUnit
from features.logs.quarantine import Quarantine
from features.logs.raw_table import RawBlock, RawFile

DEFAULT_DATA_FOLDER = "../shared/data"
"""What ${CASCADE_DATA} stands for when the environment does not set it; relative to the working directory."""
RESERVED_NAMES = {"id", "user_id", "item_id", "raw_id", "title", "timestamp", "value", "split"}
FORBID_EXTRA = ConfigDict(extra="forbid")
OneCharacter = Annotated[str, Field(min_length=1, max_length=1)]
ColumnName = Annotated[str, Field(min_length=1)]
FeatureName = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class FileConfig:
    """Where a table stands and how it is written."""

    path: Annotated[str, Field(min_length=1)]
    """CSV, TSV or Parquet file, also compressed (.gz, .bz2, .zst, .lz4), or a folder of such files, all of one form.
    ${NAME} stands for an environment variable (CASCADE_DATA is ../shared/data unless set), ~ for the home folder; a
    relative path counts from the working directory."""
    delimiter: OneCharacter | None = None
    """Character between columns of a text file; unset: a tab for .tsv and .tab, else a comma."""
    quote: Annotated[str, Field(max_length=1)] = '"'
    """Character around values that contain the delimiter; "" if quotes have no meaning in the file."""
    column_names: tuple[ColumnName, ...] = ()
    """Names of the columns, for text files without a header line."""
    null_values: tuple[str, ...] = ("",)
    """Feature values that mean "unknown"."""

    def files(self, key: str) -> list[RawFile]:
        """The table's files in order of name.

        Args:
            key: the config key of this table, for the message.
        Raises: LogError if there is no such file, or the path names an environment variable that is not set.
        """
        path = expanded_path(self.path, f"{key}.path")
        paths = [path]
        if path.is_dir():
            paths = sorted(child for child in path.iterdir() if child.is_file() and child.name[0] not in "._")
        if not paths or not paths[0].is_file():
            what = "the folder is empty" if path.is_dir() else "there is no such file"
            raise LogError(
                f"{path}: {what} ({key}.path = {self.path!r}, working directory {Path.cwd()}); correct the path"
            )
        return [RawFile(path, self.delimiter, self.quote, self.column_names) for path in paths]


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class InteractionTableConfig(FileConfig):
    """The log itself: who met what, and when. One row is one interaction."""

    user_id: ColumnName
    """Column with the user's id: text or integers, kept as it stands."""
    item_id: ColumnName
    """Column with the item's id: text or integers, kept as it stands."""
    timestamp: ColumnName
    """Column with the time of the interaction."""
    timestamp_unit: TimestampUnit = "s"
    """Unit of a numeric timestamp since 1970: "s", "ms" or "us"."""
    timestamp_format: str | None = None
    """Form of a timestamp that is text: as for strptime, e.g. "%Y-%m-%d", or "iso8601". UTC unless it holds a zone."""
    value: ColumnName | None = None
    """Column with a number that says how strong the interaction is, e.g. a rating."""
    min_value: float | None = None
    """Rows whose value is below this are no interactions: they are dropped and counted."""

    @model_validator(mode="after")
    def _value_and_min_value_together(self) -> "InteractionTableConfig":
        if (self.value is None) != (self.min_value is None):
            raise ValueError("value and min_value belong together: set both or neither")
        return self


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class FeatureTableConfig(FileConfig):
    """Mapping of feature names to columns. A name is lower case letters, digits and underscores."""

    categorical: dict[FeatureName, ColumnName] = Field(default_factory=dict)
    """Feature name -> column of text or integers."""
    continuous: dict[FeatureName, ColumnName] = Field(default_factory=dict)
    """Feature name -> column of numbers."""
    lists: dict[FeatureName, ColumnName] = Field(default_factory=dict)
    """Feature name -> column with several values a row: text with a separator, or a Parquet list."""
    list_separator: Annotated[str, Field(min_length=1)] = "|"
    """What stands between the values of a list in a text column."""

    @property
    def features(self) -> FeatureColumns:
        """The names of the features, as they stand in the table."""
        return FeatureColumns(tuple(self.categorical), tuple(self.continuous), tuple(self.lists))

    @model_validator(mode="after")
    def _names_are_free(self) -> "FeatureTableConfig":
        names = self.features.names
        for name in names:
            if name in RESERVED_NAMES:
                raise ValueError(f"the feature name {name!r} is taken; give the feature another name")
            if names.count(name) > 1:
                raise ValueError(f"the feature name {name!r} is used twice; give one of the features another name")
        return self


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class UserTableConfig(FeatureTableConfig):
    """What is known about users. One row is one user."""

    user_id: ColumnName
    """Column with the user's id, written as in the interactions."""


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class ItemTableConfig(FeatureTableConfig):
    """What is known about items. One row is one item."""

    item_id: ColumnName
    """Column with the item's id, written as in the interactions."""
    title: ColumnName | None = None
    """Column with a name that people can read."""


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class TablesConfig:
    """Files of the three tables; users and items may be left out."""

    interactions: InteractionTableConfig
    users: UserTableConfig | None = None
    items: ItemTableConfig | None = None


def read_tables(config: TablesConfig) -> Logs:
    """Read the files once, block by block; rows that cannot be read go to the quarantine.

    Raises: LogError if a file is missing, damaged or empty, a column is missing or has an impossible type, or no id of
        the interactions is in the table of users or items.
    """
    quarantine, rows_read, rows_dropped = Quarantine(), {"users": 0, "items": 0}, {}
    interactions, rows_read["interactions"] = _read_interactions(config.interactions, quarantine, rows_dropped)
    sides = {}
    for table, id_column, side in (("users", "user_id", config.users), ("items", "item_id", config.items)):
        read = _empty_side(id_column, with_title=table == "items")
        if side is not None:
            read, rows_read[table] = _read_side(table, id_column, side, quarantine)
            _check_overlap(table, id_column, interactions, read)
        sides[table] = _with_missing_ids(read, id_column, interactions[id_column])
    return Logs(
        interactions=interactions,
        users=sides["users"],
        items=sides["items"],
        user_features=config.users.features if config.users else FeatureColumns(),
        item_features=config.items.features if config.items else FeatureColumns(),
        quarantine=quarantine.to_table(),
        rows_read={table: rows_read[table] for table in ("interactions", "users", "items")},
        rows_dropped=rows_dropped,
    )


def raw_files(config: TablesConfig) -> list[RawFile]:
    """Every file that `read_tables` reads. Raises: LogError if one is missing."""
    tables = {"interactions": config.interactions, "users": config.users, "items": config.items}
    return [file for name, table in tables.items() if table for file in table.files(f"data.tables.{name}")]


def expanded_path(path: str, key: str) -> Path:
    """The path with environment variables and ~ put in. LogError (naming `key`) if a variable is not set."""
    values = {"CASCADE_DATA": DEFAULT_DATA_FOLDER} | dict(os.environ)

    def value(match: re.Match[str]) -> str:
        name = match.group(1)
        if name not in values:
            raise LogError(
                f"{key} = {path!r}: the environment variable {name} is not set; set it or write the path out"
            )
        return values[name]

    return Path(re.sub(r"\$\{(\w+)\}", value, path)).expanduser()


class _Block:
    """A raw block under conversion: which of its rows are still good."""

    def __init__(self, table: str, file: Path, raw: RawBlock, quarantine: Quarantine) -> None:
        self.table, self.file, self.raw, self.quarantine = table, str(file), raw, quarantine
        self.good = np.ones(raw.columns.num_rows, bool)
        for line, reason, text in raw.malformed:
            quarantine.add(table, self.file, line, reason, text)

    def reject(self, bad: np.ndarray, reason: str) -> None:
        """Put rows that are still good and in the mask in quarantine."""
        for row in np.flatnonzero(bad & self.good).tolist():
            self.quarantine.add(self.table, self.file, int(self.raw.lines[row]), reason, self.raw.text(row))
        self.good &= ~bad

    def where(self, key: str, column: str) -> str:
        return f"{self.file}: column {column!r} (data.tables.{self.table}.{key})"


def _blocks(table: str, config: FileConfig, wanted: dict[str, str], quarantine: Quarantine) -> Iterator[_Block]:
    keys = {f"data.tables.{table}.{key}": column for key, column in wanted.items()}
    for file in config.files(f"data.tables.{table}"):
        for raw in file.blocks(keys):
            yield _Block(table, file.path, raw, quarantine)


def _ids(block: _Block, key: str, column: str) -> pa.Array:
    ids, problems = convert.to_id(block.raw.columns[column], block.where(key, column))
    for bad, reason in problems:
        block.reject(bad, f"{key}: {reason}")
    return ids


def _read_interactions(
    config: InteractionTableConfig, quarantine: Quarantine, rows_dropped: dict[str, int]
) -> tuple[pa.Table, int]:
    wanted = {"user_id": config.user_id, "item_id": config.item_id, "timestamp": config.timestamp}
    if config.value is not None:
        wanted["value"] = config.value
    parts, num_rows = [], 0
    for block in _blocks("interactions", config, wanted, quarantine):
        num_rows += block.raw.num_rows
        user_id, item_id = _ids(block, "user_id", config.user_id), _ids(block, "item_id", config.item_id)
        timestamp, problems = convert.to_timestamp(
            block.raw.columns[config.timestamp],
            block.where("timestamp", config.timestamp),
            config.timestamp_unit,
            config.timestamp_format,
        )
        for bad, reason in problems:
            block.reject(bad, reason)
        used = block.good
        if config.value is not None:
            used = _strong_rows(block, config, rows_dropped)
        part = pa.table({"user_id": user_id, "item_id": item_id, "timestamp": pa.array(timestamp, pa.int64())})
        parts.append(part.filter(pa.array(used)))
    empty = pa.schema([("user_id", pa.string()), ("item_id", pa.string()), ("timestamp", pa.int64())]).empty_table()
    return pa.concat_tables([empty, *parts]).combine_chunks(), num_rows


def _strong_rows(block: _Block, config: InteractionTableConfig, rows_dropped: dict[str, int]) -> np.ndarray:
    """Good rows whose value is at least min_value; the others are counted as dropped."""
    value, bad = convert.to_number(block.raw.columns[config.value], block.where("value", str(config.value)))
    block.reject(bad | ~value.is_valid().to_numpy(zero_copy_only=False).astype(bool), "value is not a number")
    weak = pc.less(value, config.min_value).fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    rows_dropped["below_min_value"] = rows_dropped.get("below_min_value", 0) + int((weak & block.good).sum())
    return block.good & ~weak


def _read_side(table: str, id_column: str, config: FeatureTableConfig, quarantine: Quarantine) -> tuple[pa.Table, int]:
    wanted = {id_column: getattr(config, id_column)}
    title = getattr(config, "title", None)
    if title is not None:
        wanted["title"] = title
    for kind in ("categorical", "continuous", "lists"):
        wanted |= {f"{kind}.{name}": column for name, column in getattr(config, kind).items()}
    seen: list[pa.Array] = []
    parts, num_rows = [_empty_side(id_column, table == "items", config.features)], 0
    for block in _blocks(table, config, wanted, quarantine):
        num_rows += block.raw.num_rows
        columns = {id_column: _ids(block, id_column, getattr(config, id_column))}
        if table == "items":
            columns["title"] = _titles(block, title)
        columns |= _features(block, config)
        block.reject(_repeated(columns[id_column], block.good, seen), f"{id_column} is a duplicate")
        parts.append(pa.table(columns).filter(pa.array(block.good)))
    return pa.concat_tables(parts).combine_chunks(), num_rows


def _titles(block: _Block, column: str | None) -> pa.Array:
    if column is None:
        return pa.array([""] * block.raw.columns.num_rows, pa.string())
    titles, bad = convert.to_text(block.raw.columns[column], block.where("title", column))
    block.reject(bad, "title: not UTF-8 text")
    return titles.fill_null("")


def _features(block: _Block, config: FeatureTableConfig) -> dict[str, pa.Array]:
    features = {}
    for name, column in config.categorical.items():
        where = block.where(f"categorical.{name}", column)
        features[name], bad = convert.to_category(block.raw.columns[column], where, config.null_values)
        block.reject(bad, f"{name}: not UTF-8 text")
    for name, column in config.continuous.items():
        where = block.where(f"continuous.{name}", column)
        features[name], bad = convert.to_number(block.raw.columns[column], where, config.null_values)
        block.reject(bad, f"{name} is not a number")
    for name, column in config.lists.items():
        where = block.where(f"lists.{name}", column)
        separator = config.list_separator
        features[name], bad = convert.to_list(block.raw.columns[column], where, separator, config.null_values)
        block.reject(bad, f"{name}: not UTF-8 text")
    return features


def _repeated(ids: pa.Array, good: np.ndarray, seen: list[pa.Array]) -> np.ndarray:
    """Mask of good rows whose id stands in an earlier good row; `seen` grows by the new ids."""
    rows = np.flatnonzero(good)
    codes = ids.take(pa.array(rows)).dictionary_encode()
    first = np.unique(codes.indices.to_numpy(zero_copy_only=False), return_index=True)[1]
    old = pc.is_in(codes.dictionary, pa.chunked_array(seen, pa.string())).to_numpy(zero_copy_only=False).astype(bool)
    seen.append(codes.dictionary.filter(pa.array(~old)))
    repeated = good.copy()
    repeated[rows[first[~old]]] = False
    return repeated


def _check_overlap(table: str, id_column: str, interactions: pa.Table, side: pa.Table) -> None:
    if not interactions.num_rows or pc.any(pc.is_in(interactions[id_column], side[id_column])).as_py():
        return
    here = side[id_column][0].as_py() if side.num_rows else None
    raise LogError(
        f"{table}: none of its {side.num_rows} ids stands in the interactions: {id_column} is for example {here!r} "
        f"here and {interactions[id_column][0].as_py()!r} there; check data.tables.{table}.{id_column} and "
        f"data.tables.interactions.{id_column}"
    )


def _empty_side(id_column: str, with_title: bool, features: FeatureColumns | None = None) -> pa.Table:
    features = features or FeatureColumns()
    fields = [(id_column, pa.string())] + [("title", pa.string())] * with_title
    fields += [(name, pa.string()) for name in features.categorical]
    fields += [(name, pa.float64()) for name in features.continuous]
    fields += [(name, pa.list_(pa.string())) for name in features.lists]
    return pa.schema(fields).empty_table()


def _with_missing_ids(side: pa.Table, id_column: str, ids: pa.ChunkedArray) -> pa.Table:
    """The table with a row for every id, in order of id, behind its own rows: features unknown, title empty."""
    unique = pc.unique(ids)
    missing = unique.filter(pc.invert(pc.is_in(unique, side[id_column])))
    missing = missing.take(pc.sort_indices(missing))
    columns = {id_column: missing}
    for column in side.schema:
        if column.name == "title":
            columns["title"] = pa.array([""] * len(missing), pa.string())
        elif pa.types.is_list(column.type):
            columns[column.name] = pa.array([[]] * len(missing), column.type)
        elif column.name != id_column:
            columns[column.name] = pa.nulls(len(missing), column.type)
    return pa.concat_tables([side, pa.table(columns)]).combine_chunks()
