"""The users or the items on their way into the models: which rows, and which values, have an id of their own."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.as_of import HISTORY, KEYS, AsOf
from features.logs import FeatureColumns, LogError
from features.split import TEST, TRAIN


@dataclass(frozen=True)
class Entity:
    """The users, or the items."""

    name: str
    """"user" or "item"."""
    columns: FeatureColumns
    raw: pa.Table
    """What the workflow reads: `{name}_id` (the row number) and the features."""
    known_rows: np.ndarray
    """Rows with an id of their own, in id order: those of before, then new ones with events in the train or valid part,
    by first appearance."""
    train_rows: np.ndarray
    """Rows with events in the train part, by first appearance."""

    @classmethod
    def of(
        cls,
        name: str,
        table: pa.Table,
        columns: FeatureColumns,
        row: np.ndarray,
        part: np.ndarray,
        known_before: np.ndarray,
    ) -> Entity:
        """Args:
        row, part: [E] of the events, in time order.
        known_before: rows that have an id already.
        """
        raw = {f"{name}_id": pa.array(np.arange(len(table)))}
        raw |= {f"{name}_{feature}": table[feature] for feature in columns.names}
        known_rows = appended(known_before, by_first_appearance(row[part != TEST]))
        return cls(name, columns, pa.table(raw), known_rows, by_first_appearance(row[part == TRAIN]))

    def vocabulary(self, before: Mapping[str, pa.Array]) -> dict[str, pa.Array]:
        """Column -> values in id order: those of before, then new ones by first appearance in the train part."""
        values = {f"{self.name}_id": pa.array(self.known_rows)}
        train = self.raw.take(self.train_rows)
        for feature in (*self.columns.categorical, *self.columns.lists):
            name = f"{self.name}_{feature}"
            flat = pc.list_flatten(train[name]) if feature in self.columns.lists else train[name]
            found = pc.unique(flat.drop_null())
            values[name] = appended_values(before.get(name), found)
        return values


def check_names(entity: str, columns: FeatureColumns, as_of: AsOf) -> None:
    """Raises: LogError if a feature would get the name of a column that the etl stage makes itself."""
    taken = {f"{entity}_id", HISTORY, *KEYS, *as_of.numbers, *as_of.user_categories}
    for name in columns.names:
        if f"{entity}_{name}" in taken:
            raise LogError(
                f"the {entity} feature {name!r} would become the column {entity}_{name}, which the etl stage makes "
                f"itself; give it another name in data.tables.{entity}s"
            )


def by_first_appearance(row: np.ndarray) -> np.ndarray:
    """Distinct rows in the order in which they first occur: later logs only ever append."""
    distinct, first = np.unique(row, return_index=True)
    return distinct[np.argsort(first)]


def appended(before: np.ndarray, found: np.ndarray) -> np.ndarray:
    """`before`, then what of `found` is not in it."""
    return np.concatenate([before, found[~np.isin(found, before)]])


def appended_values(before: pa.Array | None, found: pa.Array) -> pa.Array:
    """`before`, then what of `found` is not in it."""
    if before is None:
        return found
    found = found.cast(before.type)
    return pa.concat_arrays([before, found.filter(pc.invert(pc.is_in(found, before)))])
