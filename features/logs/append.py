"""Later logs behind earlier ones: what was there keeps its place, what is new comes behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from features.logs.contract import LogError, Logs, distinct
from features.logs.table_config import TablesConfig, expanded_path


def later_tables(config: TablesConfig, path: str) -> TablesConfig:
    """Where later logs stand, in the form of the earlier ones.

    Args:
        path: a file: interactions. A folder: interactions, and users and items if they are there, each under the name
            of the earlier file (its extension may differ).
    Raises: LogError if there are no interactions.
    """
    found = expanded_path(path, "data.append")
    if found.is_file():
        return replace(config, interactions=replace(config.interactions, path=str(found)), users=None, items=None)
    if not found.is_dir():
        raise LogError(f"{found}: there is no such file or folder (--append, data.append); correct the path")
    here = {}
    for table in ("interactions", "users", "items"):
        earlier = getattr(config, table)
        file = _like(found, earlier.path) if earlier else None
        here[table] = replace(earlier, path=str(file)) if file else None
    if here["interactions"] is None:
        stem = _stem(Path(config.interactions.path))
        raise LogError(
            f"{found}: no file {stem}.* with interactions (--append, data.append), there is "
            f"{', '.join(sorted(child.name for child in found.iterdir())) or 'nothing'}; name it like the earlier one"
        )
    return TablesConfig(**here)


def in_id_order(logs: Logs) -> Logs:
    """The same logs with users and items in the order of their ids."""
    return replace(logs, users=logs.users.sort_by("user_id"), items=logs.items.sort_by("item_id"))


def appended(earlier: Logs, later: Logs) -> Logs:
    """Both logs as one. A user or item that the earlier tables have keeps its row; later attributes replace its own.

    Raises: LogError if the later interactions lack a column.
    """
    names = earlier.interactions.column_names
    if missing := [name for name in names if name not in later.interactions.column_names]:
        raise LogError(f"the later interactions lack the columns {', '.join(missing)}, which the earlier ones have")
    interactions = pa.concat_tables(
        [_plain_dictionaries(logs.interactions.select(names)) for logs in (earlier, later)]
    ).unify_dictionaries()
    counts = {name: earlier.rows_read[name] + later.rows_read[name] for name in earlier.rows_read}
    dropped = {
        name: earlier.rows_dropped.get(name, 0) + later.rows_dropped.get(name, 0)
        for name in {**earlier.rows_dropped, **later.rows_dropped}
    }
    return Logs(
        interactions=interactions,
        users=_joined(earlier.users, later.users, "user_id"),
        items=_joined(earlier.items, later.items, "item_id"),
        user_features=earlier.user_features,
        item_features=earlier.item_features,
        quarantine=pa.concat_tables([earlier.quarantine, later.quarantine]),
        rows_read=counts,
        rows_dropped=dropped,
        interaction_columns=earlier.interaction_columns,
    )


def _joined(earlier: pa.Table, later: pa.Table, id_column: str) -> pa.Table:
    """Rows of the earlier table in their order, changed where the later one knows more; then the new rows."""
    later = _with_columns(later, earlier.schema)
    place = pc.index_in(earlier[id_column], value_set=later[id_column].combine_chunks())
    is_new = pc.invert(pc.is_in(later[id_column], distinct(earlier[id_column])))
    columns = {}
    for name in earlier.column_names:
        update = later[name].combine_chunks().take(place.combine_chunks())
        columns[name] = _preferred(update, earlier[name].combine_chunks())
    return pa.concat_tables([pa.table(columns, earlier.schema), later.filter(is_new)]).combine_chunks()


def _preferred(update: pa.Array, before: pa.Array) -> pa.Array:
    """The later value where one is known: neither null, nor empty text, nor an empty list."""
    is_known = update.is_valid()
    if pa.types.is_list(update.type):
        is_known = pc.greater(pc.list_value_length(update), 0).fill_null(False)
        rows = pc.if_else(is_known, pa.array(range(len(update))), pc.add(pa.array(range(len(before))), len(update)))
        return pa.concat_arrays([update, before]).take(rows)
    if pa.types.is_string(update.type):
        is_known = pc.not_equal(update, "").fill_null(False)
    return pc.if_else(is_known, update, before)


def _with_columns(table: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table with the schema's columns, unknown where it lacks them."""
    columns = {}
    for column in schema:
        if column.name in table.column_names:
            columns[column.name] = table[column.name].cast(column.type)
        elif pa.types.is_list(column.type):
            columns[column.name] = pa.array([[]] * len(table), column.type)
        else:
            columns[column.name] = pa.nulls(len(table), column.type)
    return pa.table(columns, schema)


def _plain_dictionaries(table: pa.Table) -> pa.Table:
    """Text as dictionaries of 32-bit codes."""
    for number, column in enumerate(table.columns):
        if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
            encoded = column.cast(pa.string()).dictionary_encode()
            table = table.set_column(number, table.column_names[number], encoded)
    return table


def _like(folder: Path, earlier: str) -> Path | None:
    stem = _stem(Path(earlier))
    found: Sequence[Path] = sorted(child for child in folder.iterdir() if _stem(child) == stem and child.is_file())
    if len(found) > 1:
        raise LogError(f"{folder}: {' and '.join(path.name for path in found)} are the same table; leave one")
    return found[0] if found else None


def _stem(path: Path) -> str:
    return path.name.split(".")[0]
