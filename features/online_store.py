"""The users' features and histories in Feast's online store, read for a request.

`features.store` makes the store and loads it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from feast.protos.feast.types.Value_pb2 import Value
from merlin.schema import ColumnSchema, Schema, Tags

from features.schema import PADDING, UNSEEN, list_length, select
from features.store.config import OnlineStoreConfig, StoreError
from features.store.repository import LIVE, ONLINE, REGISTRY, SEEN, STATE_COLUMNS, open_repository
from features.store.row_reader import Cells, RowReader, row_reader
from features.store.value_arrays import floats, int_lists, ints
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
    Raises: ArtifactError if a file is missing, the registry does not describe the users, or the rows are of another
        form; StoreError if the environment variable that names the Redis is not set. A Redis that is down is the next
        `read`'s error.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        self._folder = folder
        self._columns = list(select(schema, Tags.USER))
        self._names = [*(column.name for column in self._columns), *STATE_COLUMNS, LIVE]
        self._reader: RowReader | None = self._opened()

    def read(self, user_ids: Sequence[str]) -> OnlineUsers:
        """Features of the users, in order; a user may come twice.

        Raises: whatever the store does when it cannot be read; the next call opens it anew. StoreError if a Redis
            has lost the users.
        """
        try:
            self._reader = self._reader or self._opened()
            distinct = list(dict.fromkeys(user_ids))
            cells = self._reader.cells(distinct, self._names)
        except Exception:  # a connection that broke once may never see the repaired or replaced file
            self._reader = None
            raise
        if len(distinct) < len(user_ids):
            place = {user_id: number for number, user_id in enumerate(distinct)}
            cells = {name: [column[place[user_id]] for user_id in user_ids] for name, column in cells.items()}
        return self._users(cells)

    def _opened(self) -> RowReader:
        return row_reader(open_repository(self._folder).config)

    def read_as_if(
        self, user_id: str, names: Sequence[str], change: Callable[[Mapping[str, Value]], Mapping[str, Value]]
    ) -> OnlineUsers:
        """What `read` would return of a user if the row were changed. Nothing is written.

        Args:
            names: of the row, what `change` needs.
            change: from those of them that the row has to what is other in it.
        """
        self._reader = self._reader or self._opened()
        cells = self._reader.cells([user_id], list(dict.fromkeys([*self._names, *names])))
        changed = change({name: Value.FromString(cell) for name, (cell,) in cells.items() if cell})
        written = {name: [value.SerializeToString()] for name, value in changed.items()}
        return self._users({name: written.get(name, cells[name]) for name in self._names})

    def nobody(self, num_users: int) -> OnlineUsers:
        """What `read` returns for users whom the store does not have."""
        return self._users({name: [b""] * num_users for name in self._names})

    def _users(self, cells: Cells) -> OnlineUsers:
        return OnlineUsers(
            features={column.name: _column(cells[column.name], column) for column in self._columns},
            known=np.array([value != b"" for value in cells["num_events"]], dtype=bool),
            num_events=ints("num_events", cells["num_events"], 0),
            last_timestamp=ints("last_timestamp", cells["last_timestamp"], -1),
            seen=_seen(cells[SEEN], cells[LIVE]),
        )


def _column(cells: list[bytes], column: ColumnSchema) -> np.ndarray:
    if column.is_list:
        return int_lists(column.name, cells, PADDING, list_length(column))
    return ints(column.name, cells, UNSEEN) if column.int_domain else floats(column.name, cells)


def _seen(past: list[bytes], live: list[bytes]) -> np.ndarray:
    """[B, S] the items of the log, then those of live events, whose moments stand between them."""
    seen_BS = int_lists(SEEN, past, NO_ITEM, None, as_steps=True)
    if not any(live):
        return seen_BS
    return np.concatenate([seen_BS, int_lists(LIVE, live, NO_ITEM, None)[:, ::2]], axis=1)
