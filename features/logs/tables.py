"""Adapter `tables`: any CSV, TSV or Parquet files, with a column mapping in the TOML."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.logs import convert
from features.logs.contract import FeatureColumns, LogError, Logs, distinct
from features.logs.quarantine import Quarantine
from features.logs.side_table import empty_side, read_side
from features.logs.table_blocks import TableBlock, table_blocks
from features.logs.table_config import TEXT, InteractionTableConfig, TablesConfig
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
        read = empty_side(id_column, with_title=table == "items")
        if side is not None:
            read, rows_read[table] = read_side(f"data.tables.{table}", table, id_column, side, quarantine)
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


def _read_interactions(
    config: InteractionTableConfig, quarantine: Quarantine, rows_dropped: dict[str, int]
) -> tuple[pa.Table, int]:
    """The interactions block by block; an id is kept once, and a number for every row."""
    wanted = {"user_id": config.user_id, "item_id": config.item_id, "timestamp": config.timestamp}
    wanted |= {name: column for name in ("value", "price") if (column := getattr(config, name)) is not None}
    wanted |= {f"categorical.{name}": column for name, column in config.categorical.items()}
    interners = {name: Interner() for name in ("user_id", "item_id", *config.categorical)}
    parts, num_rows = [_empty_interactions(config)], 0
    for block in table_blocks("data.tables.interactions", "interactions", config, wanted, quarantine):
        num_rows += block.raw.num_rows
        texts = {"user_id": block.ids("user_id", config.user_id), "item_id": block.ids("item_id", config.item_id)}
        columns = {"timestamp": block.timestamps(config.timestamp, config)} | _prices(block, config)
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


def _prices(block: TableBlock, config: InteractionTableConfig) -> dict[str, pa.Array]:
    if config.price is None:
        return {}
    price, bad = convert.to_number(block.raw.columns[config.price], block.where("price", config.price))
    block.reject(bad, "price is not a number")
    negative = pc.less(price, 0.0).fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    block.reject(negative, "price is negative")
    return {"price": price}


def _strong_rows(block: TableBlock, config: InteractionTableConfig, rows_dropped: dict[str, int]) -> np.ndarray:
    """Good rows whose value is at least min_value; the others are counted as dropped."""
    value, bad = convert.to_number(block.raw.columns[config.value], block.where("value", str(config.value)))
    block.reject(bad | ~value.is_valid().to_numpy(zero_copy_only=False).astype(bool), "value is not a number")
    weak = pc.less(value, config.min_value).fill_null(False).to_numpy(zero_copy_only=False).astype(bool)
    rows_dropped["below_min_value"] = rows_dropped.get("below_min_value", 0) + int((weak & block.good).sum())
    return block.good & ~weak


def _check_overlap(table: str, id_column: str, interactions: pa.Table, side: pa.Table) -> None:
    if not interactions.num_rows or pc.any(pc.is_in(distinct(interactions[id_column]), side[id_column])).as_py():
        return
    here = side[id_column][0].as_py() if side.num_rows else None
    raise LogError(
        f"{table}: none of its {side.num_rows} ids stands in the interactions: {id_column} is for example {here!r} "
        f"here and {interactions[id_column][0].as_py()!r} there; check data.tables.{table}.{id_column} and "
        f"data.tables.interactions.{id_column}"
    )


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
