"""Adapter `tables`: any CSV, TSV or Parquet files, with a column mapping in the TOML."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.logs import convert
from features.logs.contract import FeatureColumns, LogError, Logs, distinct
from features.logs.quarantine import Quarantine
from features.logs.raw_table import RawBlock
from features.logs.table_config import (
    TEXT,
    FeatureTableConfig,
    FileConfig,
    InteractionTableConfig,
    TablesConfig,
)
from features.ops.interner import Interner


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
        interaction_columns=config.interactions.columns,
        quarantine=quarantine.to_table(),
        rows_read={table: rows_read[table] for table in ("interactions", "users", "items")},
        rows_dropped=rows_dropped,
    )


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
    """The interactions block by block; an id is kept once, and a number for every row."""
    wanted = {"user_id": config.user_id, "item_id": config.item_id, "timestamp": config.timestamp}
    wanted |= {name: column for name in ("value", "price") if (column := getattr(config, name)) is not None}
    wanted |= {f"categorical.{name}": column for name, column in config.categorical.items()}
    interners = {name: Interner() for name in ("user_id", "item_id", *config.categorical)}
    parts, num_rows = [_empty_interactions(config)], 0
    for block in _blocks("interactions", config, wanted, quarantine):
        num_rows += block.raw.num_rows
        texts = {"user_id": _ids(block, "user_id", config.user_id), "item_id": _ids(block, "item_id", config.item_id)}
        columns = {"timestamp": _timestamps(block, config)} | _prices(block, config)
        for name, column in config.categorical.items():
            where = block.where(f"categorical.{name}", column)
            texts[name], bad = convert.to_category(block.raw.columns[column], where, config.null_values)
            block.reject(bad, f"{name}: not UTF-8 text")
        used = pa.array(_strong_rows(block, config, rows_dropped) if config.value is not None else block.good)
        codes = {name: pa.array(interners[name].add(text.filter(used)), pa.int32()) for name, text in texts.items()}
        parts.append(pa.table(codes | {name: values.filter(used) for name, values in columns.items()}))
    table = pa.concat_tables(parts).combine_chunks()
    names = ("user_id", "item_id", "timestamp", *config.columns.names)
    return pa.table({name: _decoded(table[name], interners.get(name)) for name in names}), num_rows


def _empty_interactions(config: InteractionTableConfig) -> pa.Table:
    kinds = dict.fromkeys(("user_id", "item_id", *config.categorical), pa.int32()) | {"timestamp": pa.int64()}
    return pa.schema(kinds | ({"price": pa.float64()} if config.price else {})).empty_table()


def _decoded(column: pa.ChunkedArray, interner: Interner | None) -> pa.Array:
    """Codes as the texts they stand for, each of which is there once; -1 stands for null."""
    values = column.combine_chunks()
    if interner is None:
        return values
    return pa.DictionaryArray.from_arrays(pc.if_else(pc.less(values, 0), None, values), interner.values())


def _timestamps(block: _Block, config: InteractionTableConfig) -> pa.Array:
    timestamp, problems = convert.to_timestamp(
        block.raw.columns[config.timestamp],
        block.where("timestamp", config.timestamp),
        config.timestamp_unit,
        config.timestamp_format,
    )
    for bad, reason in problems:
        block.reject(bad, reason)
    return pa.array(timestamp, pa.int64())


def _prices(block: _Block, config: InteractionTableConfig) -> dict[str, pa.Array]:
    if config.price is None:
        return {}
    price, bad = convert.to_number(block.raw.columns[config.price], block.where("price", config.price))
    block.reject(bad, "price is not a number")
    negative = pc.less(price, 0.0).fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    block.reject(negative, "price is negative")
    return {"price": price}


def _strong_rows(block: _Block, config: InteractionTableConfig, rows_dropped: dict[str, int]) -> np.ndarray:
    """Good rows whose value is at least min_value; the others are counted as dropped."""
    value, bad = convert.to_number(block.raw.columns[config.value], block.where("value", str(config.value)))
    block.reject(bad | ~value.is_valid().to_numpy(zero_copy_only=False).astype(bool), "value is not a number")
    weak = pc.less(value, config.min_value).fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    rows_dropped["below_min_value"] = rows_dropped.get("below_min_value", 0) + int((weak & block.good).sum())
    return block.good & ~weak


def _read_side(table: str, id_column: str, config: FeatureTableConfig, quarantine: Quarantine) -> tuple[pa.Table, int]:
    wanted = {id_column: getattr(config, id_column)}
    title, text = getattr(config, "title", None), getattr(config, "text", ())
    if title is not None:
        wanted["title"] = title
    wanted |= {f"text.{number}": column for number, column in enumerate(text)}
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
        if text:
            columns[TEXT] = pc.binary_join_element_wise(*(_titles(block, column) for column in text), " ")
        block.reject(_repeated(columns[id_column], block.good, seen), f"{id_column} is a duplicate")
        parts.append(pa.table(columns).filter(pa.array(block.good)))
    return pa.concat_tables(parts).combine_chunks(), num_rows


def _titles(block: _Block, column: str | None) -> pa.Array:
    """Text for people; "" where unknown."""
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
    if not interactions.num_rows or pc.any(pc.is_in(distinct(interactions[id_column]), side[id_column])).as_py():
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
    fields += [(name, pa.string()) for name in features.texts]
    return pa.schema(fields).empty_table()


def _with_missing_ids(side: pa.Table, id_column: str, ids: pa.ChunkedArray) -> pa.Table:
    """The table with a row for every id, in order of id, behind its own rows: features unknown, title empty."""
    unique = distinct(ids)
    missing = unique.filter(pc.invert(pc.is_in(unique, side[id_column])))
    missing = missing.take(pc.sort_indices(missing))
    columns = {id_column: missing}
    for column in side.schema:
        if column.name in ("title", TEXT):
            columns[column.name] = pa.array([""] * len(missing), pa.string())
        elif pa.types.is_list(column.type):
            columns[column.name] = pa.array([[]] * len(missing), column.type)
        elif column.name != id_column:
            columns[column.name] = pa.nulls(len(missing), column.type)
    return pa.concat_tables([side, pa.table(columns)]).combine_chunks()
