"""Adapter `impressions`: any CSV, TSV or Parquet files with a label in each row, and a column mapping in the TOML.

Numbers may be real and of either sign; empty text, null and NaN are unknown, and so are the features of a user or item
that stands in no side table. A row goes to the quarantine if its label, time or id cannot be read, a number is no
number or infinite, or a text is not UTF-8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.logs import convert
from features.logs.impression_config import LABEL, ImpressionTableConfig
from features.logs.impression_values import to_label
from features.logs.impressions import ImpressionBlock, ImpressionColumns
from features.logs.quarantine import Quarantine
from features.logs.side_table import features_of, read_side
from features.logs.table_blocks import TableBlock, table_blocks
from features.split import TEST, TRAIN, VALID, SplitConfig, TimeSplit, time_split

SECTION = "data.impressions"


@dataclass(frozen=True)
class ImpressionTable:
    """An `ImpressionLog`. A point in time divides all rows anew when later files are appended; where files are named
    for each part, later files train."""

    config: ImpressionTableConfig
    split_config: SplitConfig
    append: tuple[str, ...] = ()
    """Later files or folders, in order."""

    @property
    def columns(self) -> ImpressionColumns:
        return self.config.columns

    @property
    def num_sources(self) -> int:
        return 1 + len(self.append)

    @property
    def name(self) -> str:
        return SECTION

    @property
    def keeps_parts(self) -> bool:
        return self.config.test is not None

    @property
    def earlier_train(self) -> bool:
        return False

    def files(self) -> list[Sequence[Path]]:
        first = [self.config.path, *filter(None, [self.config.valid, self.config.test])]
        paths = [file.path for path in first for file in replace(self.config, path=path).files(SECTION)]
        for side, key in ((self.config.users, "users"), (self.config.items, "items")):
            paths += [file.path for file in side.files(f"{SECTION}.{key}")] if side else []
        later = [[file.path for file in replace(self.config, path=path).files(SECTION)] for path in self.append]
        return [paths, *later]

    def split(self) -> TimeSplit | None:
        return None if self.config.test is not None else self._split

    def blocks(self, num_known: int, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
        sides = {
            key: _Side.read(key, getattr(self.config, f"{key}s"), quarantine)
            for key in ("user", "item")
            if getattr(self.config, f"{key}s") is not None
        }
        for path, part in self._paths(num_known):
            for block in self._table_blocks(path, self._wanted, quarantine):
                columns = self._converted(block, sides)
                table = pa.table({name: columns[name] for name in self.columns.names}).filter(pa.array(block.good))
                if part is None:
                    where = self._split.part_of(table["timestamp"].to_numpy())
                else:
                    where = np.full(len(table), part, np.int8)
                yield ImpressionBlock(where, table, block.file, block.raw.lines[block.good], block.raw.num_rows)

    @cached_property
    def _split(self) -> TimeSplit:
        """Of all rows whose time can be read: a pass of its own over that column."""
        assert self.config.timestamp is not None
        wanted, unused = {"timestamp": self.config.timestamp}, Quarantine()
        moments = [
            block.timestamps(self.config.timestamp, self.config).to_numpy()[block.good]
            for path, _ in self._paths(0)
            for block in self._table_blocks(path, wanted, unused)
        ]
        return time_split(np.concatenate([np.empty(0, np.int64), *moments]), self.split_config)

    def _paths(self, num_known: int) -> list[tuple[str, int | None]]:
        """Where rows stand, and the part they belong to: None if their time says it."""
        config = self.config
        paths: list[tuple[str, int | None]] = [(config.path, None)]
        if config.valid is not None and config.test is not None:
            paths = [(config.path, TRAIN), (config.valid, VALID), (config.test, TEST)]
        later: list[tuple[str, int | None]] = [(path, paths[0][1]) for path in self.append]
        return later[num_known - 1 :] if num_known else paths + later

    def _table_blocks(self, path: str, wanted: dict[str, str], quarantine: Quarantine) -> Iterator[TableBlock]:
        return table_blocks(SECTION, "impressions", replace(self.config, path=path), wanted, quarantine)

    @property
    def _wanted(self) -> dict[str, str]:
        config = self.config
        wanted = {"label": config.label}
        for name in ("timestamp", "user_id", "item_id"):
            if (column := getattr(config, name)) is not None:
                wanted[name] = column
        for kind in ("categorical", "continuous", "lists"):
            wanted |= {f"{kind}.{name}": column for name, column in getattr(config, kind).items()}
        return wanted

    def _converted(self, block: TableBlock, sides: dict[str, _Side]) -> dict[str, pa.Array]:
        config = self.config
        columns = {LABEL: _labels(block, config)} | features_of(block, config)
        if config.timestamp is not None:
            columns["timestamp"] = block.timestamps(config.timestamp, config)
        for key in ("user", "item"):
            if (column := getattr(config, f"{key}_id")) is not None:
                ids = block.ids(f"{key}_id", column)
                columns[f"{key}_id"] = ids
                columns |= sides[key].joined(ids) if key in sides else {}
        is_text = {name: pa.types.is_string(column.type) for name, column in columns.items()}
        return {name: column.dictionary_encode() if is_text[name] else column for name, column in columns.items()}


@dataclass(frozen=True)
class _Side:
    """A table of users or items, to be joined."""

    ids: pa.Array
    columns: dict[str, pa.Array]

    @classmethod
    def read(cls, key: str, config, quarantine: Quarantine) -> _Side:
        table, _ = read_side(f"{SECTION}.{key}s", f"{key}s", f"{key}_id", config, quarantine)
        names = config.features.names
        columns = {name: table[name].combine_chunks() for name in names}
        encoded = {
            name: column.dictionary_encode() if pa.types.is_string(column.type) else column
            for name, column in columns.items()
        }
        return cls(table[f"{key}_id"].combine_chunks(), {f"{key}_{name}": column for name, column in encoded.items()})

    def joined(self, ids: pa.Array) -> dict[str, pa.Array]:
        """Features of each id; of one that is not here, null, or an empty list."""
        row = pc.index_in(ids, self.ids)
        return {name: _known_lists(column.take(row)) for name, column in self.columns.items()}


def _known_lists(column: pa.Array) -> pa.Array:
    return pc.fill_null(column, pa.scalar([], column.type)) if pa.types.is_list(column.type) else column


def _labels(block: TableBlock, config: ImpressionTableConfig) -> pa.Array:
    raw, where = block.raw.columns[config.label], block.where("label", config.label)
    if config.positive_from is None:
        label, bad = to_label(raw, where)
        block.reject(bad, "label is neither 0 nor 1 (of a rating or a count, set positive_from)")
        return label
    numbers, bad = convert.to_number(raw, where)
    known = numbers.is_valid().to_numpy(zero_copy_only=False)
    block.reject(bad | ~known, "label is not a number")
    return pa.array((np.nan_to_num(numbers.to_numpy(zero_copy_only=False)) >= config.positive_from).astype(np.int8))
