"""Tables of what is known of users or items: one row an id."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.logs import convert
from features.logs.contract import FeatureColumns
from features.logs.quarantine import Quarantine
from features.logs.table_blocks import TableBlock, table_blocks
from features.logs.table_config import TEXT, FeatureTableConfig


def read_side(
    section: str, table: str, id_column: str, config: FeatureTableConfig, quarantine: Quarantine
) -> tuple[pa.Table, int]:
    """The table's rows, without those put in quarantine, and how many were read.

    Args:
        section: of the configuration, for messages, e.g. "data.tables.users".
        table: "users" or "items".
        id_column: "user_id" or "item_id".
    Raises: LogError if a file is missing, damaged or empty, or a column is missing or has an impossible type.
    """
    wanted = {id_column: getattr(config, id_column)}
    title, text = getattr(config, "title", None), getattr(config, "text", ())
    if title is not None:
        wanted["title"] = title
    wanted |= {f"text.{number}": column for number, column in enumerate(text)}
    for kind in ("categorical", "continuous", "lists"):
        wanted |= {f"{kind}.{name}": column for name, column in getattr(config, kind).items()}
    seen: list[pa.Array] = []
    parts, num_rows = [empty_side(id_column, table == "items", config.features)], 0
    for block in table_blocks(section, table, config, wanted, quarantine):
        num_rows += block.raw.num_rows
        columns = {id_column: block.ids(id_column, getattr(config, id_column))}
        if table == "items":
            columns["title"] = _titles(block, title)
        columns |= features_of(block, config)
        if text:
            columns[TEXT] = pc.binary_join_element_wise(*(_titles(block, column) for column in text), " ")
        block.reject(_repeated(columns[id_column], block.good, seen), f"{id_column} is a duplicate")
        parts.append(pa.table(columns).filter(pa.array(block.good)))
    return pa.concat_tables(parts).combine_chunks(), num_rows


def _titles(block: TableBlock, column: str | None) -> pa.Array:
    """Text for people; "" where unknown."""
    if column is None:
        return pa.array([""] * block.raw.columns.num_rows, pa.string())
    titles, bad = convert.to_text(block.raw.columns[column], block.where("title", column))
    block.reject(bad, "title: not UTF-8 text")
    return titles.fill_null("")


def features_of(block: TableBlock, config: FeatureTableConfig) -> dict[str, pa.Array]:
    """Columns by feature name; rows with a value that cannot be used are rejected."""
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


def empty_side(id_column: str, with_title: bool, features: FeatureColumns | None = None) -> pa.Table:
    features = features or FeatureColumns()
    fields = [(id_column, pa.string())] + [("title", pa.string())] * with_title
    fields += [(name, pa.string()) for name in features.categorical]
    fields += [(name, pa.float64()) for name in features.continuous]
    fields += [(name, pa.list_(pa.string())) for name in features.lists]
    fields += [(name, pa.string()) for name in features.texts]
    return pa.schema(fields).empty_table()
