"""How the adapter `tables` is told what stands where: files, and which column is what."""

import os
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated

from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass

from features.logs.contract import FeatureColumns, InteractionColumns, LogError
from features.logs.convert import TimestampUnit
from features.logs.raw_table import RawFile

DEFAULT_DATA_FOLDER = "../shared/data"
"""What ${CASCADE_DATA} stands for when the environment does not set it; relative to the working directory."""
RESERVED_NAMES = {"id", "user_id", "item_id", "raw_id", "title", "text", "timestamp", "value", "split"}
TEXT = "text"
"""Name of the feature that is made of the items' words."""
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
class TimeForm:
    """How times are written."""

    timestamp_unit: TimestampUnit = "s"
    """Unit of a numeric timestamp since 1970: "s", "ms" or "us"."""
    timestamp_format: str | None = None
    """Form of a timestamp that is text: as for strptime, e.g. "%Y-%m-%d", or "iso8601". UTC unless it holds a zone."""


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class InteractionTableConfig(TimeForm, FileConfig):
    """The log itself: who met what, and when. One row is one interaction."""

    user_id: ColumnName
    """Column with the user's id: text or integers, kept as it stands."""
    item_id: ColumnName
    """Column with the item's id: text or integers, kept as it stands."""
    timestamp: ColumnName
    """Column with the time of the interaction."""
    value: ColumnName | None = None
    """Column with a number that says how strong the interaction is, e.g. a rating."""
    min_value: float | None = None
    """Rows whose value is below this are no interactions: they are dropped and counted."""
    price: ColumnName | None = None
    """Column with what was paid, in one currency; makes an item's price history a feature."""
    categorical: dict[FeatureName, ColumnName] = Field(default_factory=dict)
    """Name -> column of text or integers that says how the interaction came about, e.g. the sales channel."""

    @property
    def columns(self) -> InteractionColumns:
        """What the interactions say beside who, what and when."""
        return InteractionColumns(self.price is not None, tuple(self.categorical))

    @model_validator(mode="after")
    def _names_are_free(self) -> "InteractionTableConfig":
        for name in self.categorical:
            if name in RESERVED_NAMES | {"price"}:
                raise ValueError(f"the name {name!r} is taken; give the column another name")
        return self

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
        names = (*self.categorical, *self.continuous, *self.lists)
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
    text: tuple[ColumnName, ...] = ()
    """Columns with words that describe the item; read together, they become a dense vector, also for new items."""

    @property
    def features(self) -> FeatureColumns:
        """The names of the features, as they stand in the table."""
        return replace(super().features, texts=(TEXT,) * bool(self.text))


@dataclass(frozen=True, kw_only=True, config=FORBID_EXTRA)
class TablesConfig:
    """Files of the three tables; users and items may be left out."""

    interactions: InteractionTableConfig
    users: UserTableConfig | None = None
    items: ItemTableConfig | None = None


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
