"""The users' features and histories in Feast's online store, read for a request.

`features.store` makes the store and loads it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from feast import FeatureStore
from feast.protos.feast.types.Value_pb2 import Value
from merlin.schema import ColumnSchema, Schema, Tags

from features.schema import PADDING, UNSEEN, list_length, select
from features.store.config import OnlineStoreConfig, StoreError
from features.store.repository import (
    KEY,
    LIVE,
    LOADED,
    ONLINE,
    REGISTRY,
    STATE_COLUMNS,
    VIEW,
    entity_key,
    online_settings,
    open_repository,
)
from features.store.write import drop_online_store, write_online_store

__all__ = [
    "NO_ITEM",
    "ONLINE",
    "REGISTRY",
    "OnlineStore",
    "OnlineStoreConfig",
    "OnlineUsers",
    "StoreError",
    "drop_online_store",
    "write_online_store",
]

# B users  L list length  S items seen
NO_ITEM = -1
_NOTHING = Value()
_NOBODY: dict[str, Value] = {}


@dataclass(frozen=True)
class OnlineUsers:
    """What the store knew of B users."""

    features: dict[str, np.ndarray]
    """The USER features by name, encoded: [B] or [B, L]; for an unknown user what stands for "nothing known"."""
    known: np.ndarray
    """[B] bool: whether the store has the user."""
    num_events: np.ndarray
    """[B] int64."""
    last_timestamp: np.ndarray
    """[B] int64 Unix seconds, -1 for none."""
    seen: np.ndarray
    """[B, S] int64 item rows the user interacted with, NO_ITEM pads."""


class OnlineStore:
    """A Feast store in a folder: registry, and the rows in a SQLite file there or in a Redis.

    Args:
        folder: what `write_online_store` made.
        schema: the USER features that were written.
    Raises: ArtifactError if a file is missing, or the registry does not describe the users; StoreError if the
        environment variable that names the Redis is not set. A Redis that is down is the next `read`'s error.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        self._folder = folder
        self._columns = list(select(schema, Tags.USER))
        self._names = [*(column.name for column in self._columns), *STATE_COLUMNS, LIVE]
        self._store: FeatureStore | None = open_repository(folder)
        self._view = self._store.get_feature_view(VIEW)

    def read(self, user_ids: Sequence[str]) -> OnlineUsers:
        """Features of the users, in order; a user may come twice.

        Raises: whatever the store does when it cannot be read; the next call opens it anew. StoreError if a Redis
            has lost the users.
        """
        try:
            if self._store is None:
                self._store = open_repository(self._folder)
                self._view = self._store.get_feature_view(VIEW)
            distinct = list(dict.fromkeys(user_ids))
            rows = dict(zip(distinct, self._rows(self._store, distinct), strict=True))
        except Exception:  # a connection that broke once may never see the repaired or replaced file
            self._store = None
            raise
        return self._users([rows[user_id] for user_id in user_ids])

    def nobody(self, num_users: int) -> OnlineUsers:
        """What `read` returns for users whom the store does not have."""
        return self._users([_NOBODY] * num_users)

    def _rows(self, store: FeatureStore, user_ids: list[str]) -> list[dict[str, Value]]:
        """Asks the store itself: Feast's `get_online_features` spends three times as long around the same call."""
        keys = [entity_key(KEY, user_id) for user_id in user_ids]
        rows = self._asked(store, keys, self._names)
        if online_settings(store.config).type == "redis" and not any(map(_is_known, rows)):
            self._check_loaded(store)
        return rows

    def _asked(self, store: FeatureStore, keys: list, names: list[str]) -> list[dict[str, Value]]:
        answer = store.provider.online_read(store.config, self._view, keys, list(names))  # Feast appends to its list
        return [row or _NOBODY for _, row in answer]

    def _check_loaded(self, store: FeatureStore) -> None:
        """A Redis that restarted empty, or whose project was dropped, knows nobody either."""
        (row,) = self._asked(store, [LOADED], ["num_events"])
        if not _is_known(row):
            raise StoreError(
                f"the Redis of {self._folder} does not hold the users of project {store.config.project!r} (any more); "
                "run `export` again"
            )

    def _users(self, rows: list[dict[str, Value]]) -> OnlineUsers:
        return OnlineUsers(
            features={column.name: _column(rows, column) for column in self._columns},
            known=np.array([_is_known(row) for row in rows], dtype=bool),
            num_events=np.array(_ints(rows, "num_events", 0), dtype=np.int64),
            last_timestamp=np.array(_ints(rows, "last_timestamp", -1), dtype=np.int64),
            seen=_padded([_seen(row) for row in rows], NO_ITEM, None),
        )


def _is_known(row: dict[str, Value]) -> bool:
    return row.get("num_events", _NOTHING).HasField("int64_val")


def _column(rows: list[dict[str, Value]], column: ColumnSchema) -> np.ndarray:
    if column.is_list:
        return _padded([_list(row, column.name) for row in rows], PADDING, list_length(column))
    if column.int_domain:
        return np.array(_ints(rows, column.name, UNSEEN), dtype=np.int64)
    return np.array([row.get(column.name, _NOTHING).float_val for row in rows], dtype=np.float32)  # 0 if unknown


def _ints(rows: list[dict[str, Value]], name: str, filler: int) -> list[int]:
    values = [row.get(name, _NOTHING) for row in rows]
    return [value.int64_val if value.HasField("int64_val") else filler for value in values]


def _list(row: dict[str, Value], name: str) -> Sequence[int]:
    return row.get(name, _NOTHING).int64_list_val.val


def _seen(row: dict[str, Value]) -> Sequence[int]:
    """The items of the log, then those of live events, whose moments stand between them."""
    live = _list(row, LIVE)
    return [*_list(row, "seen"), *live[::2]] if live else _list(row, "seen")


def _padded(lists: Sequence[Sequence[int]], filler: int, length: int | None) -> np.ndarray:
    length = max(map(len, lists), default=0) if length is None else length
    padded = np.full((len(lists), length), filler, dtype=np.int64)
    for place, values in zip(padded, lists, strict=True):
        place[: len(values)] = values
    return padded
