"""A user's features as of any moment, made again from raw tables and events by the code that made the training's."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from merlin.schema import Tags

from features.artifact import open_artifact
from features.as_of import raw_interactions
from features.etl import as_of_features
from features.history import EventLog
from features.schema import PADDING, UNSEEN, load_schema, select
from features.workflow import load_workflow, transform
from pipelines.monitor.later_events import LaterEvent

# Q questions (a user and a moment)
LAST_TIMESTAMP = "last_timestamp"
NEVER = -1
_NOT_THERE = -1


class OfflineFeatures:
    """From the etl artifact of a run: its raw users, its events before `as_of`, and what happened since.

    Args:
        run: the run's folder.
        later: events that the run's log does not have; those of items that the run does not know are left out, as
            serving leaves them out.
        users: what is known of users now, in the form of the run's `raw/users.parquet`; that very table if None.
    """

    def __init__(self, run: Path, later: Sequence[LaterEvent] = (), users: pa.Table | None = None) -> None:
        etl = open_artifact(run / "etl", "etl")
        self.as_of: int = etl.metrics["as_of"]
        """Unix seconds: of what came before, the run's log has all."""
        self._as_of_features = as_of_features(etl)
        self._workflows = {name: load_workflow(etl, name) for name in ("users", "interactions")}
        self._columns = list(select(load_schema(etl.file("schema.json")), Tags.USER))
        raw = pq.read_table(etl.file("raw/users.parquet"))
        item_ids = pq.read_table(etl.file("raw/items.parquet"), columns=["item_id"])["item_id"].cast(pa.string())
        self._row_of_user = _rows(raw["user_id"])
        self._num_users = len(raw)
        self._users = raw if users is None else _in_order(users, raw)
        self._item_rows = {item: row for row, item in enumerate(item_ids.to_pylist())}
        events = pq.read_table(etl.file("events.parquet"))
        events = events.filter(pc.less(events["timestamp"], self.as_of))
        self._log = EventLog.from_events(pa.concat_tables([events, self._table_of(events, later)]))
        names = etl.metrics["feature_columns"]["user"]
        self.attributes = [f"user_{name}" for kind in ("categorical", "continuous", "lists") for name in names[kind]]
        """Features that come from the users table."""

    @property
    def num_items(self) -> int:
        """Of the catalogue."""
        return len(self._item_rows)

    @property
    def names(self) -> list[str]:
        """The features that `at` gives, in the order of the schema, and LAST_TIMESTAMP."""
        return [*(column.name for column in self._columns), LAST_TIMESTAMP]

    @property
    def categories(self) -> list[str]:
        """Features that are encoded categories, the lists of them among them."""
        return [column.name for column in self._columns if column.int_domain]

    @cached_property
    def without_attributes(self) -> dict[str, float]:
        """What each attribute that is a number becomes for a user of whom it is null."""
        nobody = self._users.slice(0, 1)
        nulls = {name: pa.nulls(1, nobody[name].type) for name in nobody.column_names if name != "user_id"}
        encoded = self._encoded_users(pa.table({"user_id": nobody["user_id"]} | nulls), np.zeros(1, np.int64))
        lists_or_categories = set(self.categories)
        return {name: float(encoded[name][0].as_py()) for name in self.attributes if name not in lists_or_categories}

    def at(self, user_ids: Sequence[str], moment_Q: np.ndarray) -> dict[str, np.ndarray]:
        """Every feature of each user strictly before each moment.

        Args:
            user_ids: Q raw ids; one that neither the users nor the events have is unknown.
            moment_Q: Unix seconds.
        Returns: feature -> [Q] or [Q, L] float64, encoded; of an unknown user what serving reads of one.
        """
        row_Q = np.array([self._row_of_user.get(user, _NOT_THERE) for user in user_ids], np.int64)
        in_table_Q = (row_Q >= 0) & (row_Q < self._num_users)
        asked = raw_interactions(
            self._log, np.maximum(row_Q, 0), np.zeros_like(row_Q), moment_Q.astype(np.int64), self._as_of_features
        )
        state = self._log.user_state(np.maximum(row_Q, 0), moment_Q.astype(np.int64), 0)
        has_row_Q = in_table_Q | ((row_Q >= 0) & (state.num_events > 0))
        interactions = transform(self._workflows["interactions"], asked)
        distinct, place_Q = np.unique(np.where(in_table_Q, row_Q, 0), return_inverse=True)
        users = self._encoded_users(self._users.take(pa.array(distinct)), distinct)
        found = {LAST_TIMESTAMP: np.where(has_row_Q, state.last_timestamp, NEVER).astype(np.float64)}
        for column in self._columns:
            if column.name in interactions.column_names:
                values, is_there_Q = _array(interactions[column.name]), has_row_Q
            else:
                values, is_there_Q = _array(users[column.name])[place_Q], in_table_Q
            nothing = PADDING if column.is_list else UNSEEN if column.int_domain else 0.0
            found[column.name] = np.where(is_there_Q.reshape(-1, *[1] * (values.ndim - 1)), values, nothing)
        return found

    def _encoded_users(self, table: pa.Table, row: np.ndarray) -> pa.Table:
        raw = {f"user_{name}": table[name] for name in table.column_names}
        return transform(self._workflows["users"], pa.table(raw | {"user_id": pa.array(row)}))

    def _table_of(self, events: pa.Table, later: Sequence[LaterEvent]) -> pa.Table:
        """Events that the log does not have, each once, in the log's columns; their users get rows."""
        there = {"user_row": events["user_row"], "timestamp": events["timestamp"], "item_row": events["item_row"]}
        known = set(zip(*(values.to_numpy().tolist() for values in there.values()), strict=True)) if later else set()
        rows = []
        for event in later:
            item_row = self._item_rows.get(event.item_id)
            if item_row is None or (event.timestamp < self.as_of and (event.received or self.as_of) < self.as_of):
                continue
            user_row = self._row_of_user.setdefault(event.user_id, len(self._row_of_user))
            key = (user_row, event.timestamp, item_row)
            if key not in known:
                known.add(key)
                rows.append({"user_row": user_row, "timestamp": event.timestamp, "item_row": item_row} | event.values)
        return pa.Table.from_pylist(rows, events.schema)


def _rows(ids: pa.ChunkedArray) -> dict[str, int]:
    return {user: row for row, user in enumerate(ids.cast(pa.string()).to_pylist())}


def _in_order(users: pa.Table, raw: pa.Table) -> pa.Table:
    """The rows of `users` in the order of `raw`; who is missing has nulls."""
    row_of = _rows(users["user_id"])
    rows = pa.array([row_of.get(user) for user in raw["user_id"].cast(pa.string()).to_pylist()], pa.int64())
    return pa.table(
        {"user_id": raw["user_id"]}
        | {name: users[name].take(rows).cast(raw[name].type) for name in raw.column_names if name != "user_id"}
    )


def _array(column: pa.ChunkedArray) -> np.ndarray:
    """[Q] or [Q, L] float64."""
    array = column.combine_chunks()
    array = array.chunk(0) if isinstance(array, pa.ChunkedArray) else array
    if pa.types.is_list(array.type) or pa.types.is_large_list(array.type) or pa.types.is_fixed_size_list(array.type):
        return array.flatten().to_numpy().astype(np.float64).reshape(len(array), -1 if len(array) else 0)
    return array.to_numpy(zero_copy_only=False).astype(np.float64)
