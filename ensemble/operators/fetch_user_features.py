"""FetchUserFeatures: a user's features, history and past items from Feast."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from merlin.schema import Tags

from ensemble.deadline import seconds_left
from ensemble.guard import StageError, guard_of
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.recent_users import RecentUsers
from ensemble.serving_metrics import metrics
from features.online_store import NO_ITEM, OnlineStore, OnlineUsers
from features.schema import list_length, load_schema, select

Change = Callable[[Mapping[str, Value]], Mapping[str, Value]]
PERSONAL, COLD, UNRANKED, FALLBACK, DEGRADED, CACHED = range(6)
"""Of those from FALLBACK on, nothing is known that could rank items for them."""
SOURCE_NAMES = np.array(["personal", "cold", "unranked", "fallback", "degraded", "cached"], dtype=object)


class FetchUserFeatures(RequestOperator):
    """Reads the store once for all users of a call. If it is slow or cannot be read, users who asked a short while ago
    are known as they were then; the others are unknown and `degraded`.

    Adds the USER features, each as the schema has it, beside the outputs named here.

    Args:
        store: the folder that `write_online_store` made.
        schema: the etl stage's `schema.json`.
    """

    outputs = {"last_timestamp": (np.int64, ()), "seen_row": (np.int64, (None,)), "source": (np.int64, ())}  # noqa: RUF012

    def __init__(self, store: Path, schema: Path) -> None:
        super().__init__(**{"store": store, "schema.json": schema})
        features = select(load_schema(schema), Tags.USER)
        self.outputs = self.outputs | {  # pyright: ignore[reportIncompatibleVariableOverride]
            column.name: (column.dtype.to_numpy, (list_length(column),) if column.is_list else ())
            for column in features
        }

    def run(self, columns: Columns) -> Columns:
        user_ids = columns["user"].tolist()
        try:
            users = self.opened_guard.call(
                self.opened_store.read, user_ids, within_seconds=seconds_left(columns["deadline"])
            )
        except StageError:  # a store that is down must not take the reply with it
            return self._without_store(user_ids)
        added = _columns(users, FALLBACK)
        self.opened_recent.remember(user_ids, _rows(added))
        return added

    def run_as_if(self, columns: Columns, names: Sequence[str], change: Change) -> Columns:
        """What `run` would add for one user if the stored row were changed, as `OnlineStore.read_as_if` says."""
        return _columns(self.opened_store.read_as_if(columns["user"][0], names, change), FALLBACK)

    def _without_store(self, user_ids: list[str]) -> Columns:
        remembered = {
            place: row for place, user_id in enumerate(user_ids) if (row := self.opened_recent.recall(user_id))
        }
        metrics.count("cascade_recalled_users_total", len(remembered))
        return _with_rows(_columns(self.opened_store.nobody(len(user_ids)), DEGRADED), remembered)

    def open(self, folder: Path) -> None:
        deadlines, cache = self.opened_config.deadlines, self.opened_config.cache
        self.opened_store = OnlineStore(folder / "store", load_schema(folder / "schema.json"))
        self.opened_guard = guard_of("store", deadlines.store_ms, deadlines)
        self.opened_recent: RecentUsers[Columns] = RecentUsers(cache.num_recent_users, cache.recent_minutes * 60)


def _columns(users: OnlineUsers, unknown: int) -> Columns:
    source = np.where(users.known, np.where(users.num_events > 0, PERSONAL, COLD), unknown)
    return users.features | {"last_timestamp": users.last_timestamp, "seen_row": users.seen, "source": source}


def _rows(columns: Columns) -> list[Columns]:
    """Each user's own row of every column, as arrays of their own."""
    num_users = len(columns["source"])
    if num_users == 1:
        return [columns]
    return [{name: values[[row]] for name, values in columns.items()} for row in range(num_users)]


def _with_rows(columns: Columns, rows: Mapping[int, Columns]) -> Columns:
    """The columns with some users' rows in their places; columns of any width get that of the widest row."""
    if not rows:
        return columns
    replaced = {}
    for name, values in columns.items():
        if values.ndim > 1:
            width = max(values.shape[1], *(row[name].shape[1] for row in rows.values()))
            values = np.pad(values, ((0, 0), (0, width - values.shape[1])), constant_values=NO_ITEM)
        replaced[name] = values.copy()
        for place, row in rows.items():
            replaced[name][place] = NO_ITEM if values.ndim > 1 else row[name][0]
            if values.ndim > 1:
                replaced[name][place, : row[name].shape[1]] = row[name][0]
    return replaced
