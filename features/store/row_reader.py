"""Reading users' rows for a request, past Feast, which builds an object a value: the same rows, as bytes.

`features.store.value_arrays` decodes them; a test holds both against what Feast answers.
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

from feast import RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.value_type import ValueType
from redis import Redis

from features.store.config import StoreError
from features.store.redis_rows import field_name, redis_of
from features.store.repository import KEY, KEY_VERSION, LOADED, VIEW, online_settings

# B users
Cells = Mapping[str, list[bytes]]
"""Feature -> [B] serialized ValueProto, empty where there is none."""
_BUSY_SECONDS = 5.0
_BEFORE_ID = serialize_entity_key_prefix([KEY], KEY_VERSION) + struct.pack("<I", ValueType.STRING.value)


class RowReader(Protocol):
    """Reads rows of one store."""

    def cells(self, user_ids: Sequence[str], names: Sequence[str]) -> Cells:
        """Of distinct users the named features.

        Raises: whatever the store does when it cannot be read; StoreError if a Redis has lost the users.
        """
        ...

    def close(self) -> None: ...


def row_reader(config: RepoConfig) -> RowReader:
    """Of the store that the settings name."""
    online = online_settings(config)
    if online.type == "redis":
        return RedisRowReader(online.connection_string, config.project)
    return SqliteRowReader(Path(online.path), f"{config.project}_{VIEW}")


def user_key(user_id: str) -> bytes:
    """What Feast's `serialize_entity_key` makes of a user."""
    encoded = user_id.encode()
    return b"".join((_BEFORE_ID, struct.pack("<I", len(encoded)), encoded))


class SqliteRowReader:
    """From Feast's table, all users by one statement. What other processes have committed is seen at once."""

    def __init__(self, path: Path, table: str) -> None:
        # mode=rw: a file that is gone is missed, not made. A guard may call from a thread of its own.
        name = f"{path.absolute().as_uri()}?mode=rw"
        self._connection = sqlite3.connect(name, _BUSY_SECONDS, check_same_thread=False, uri=True)
        self._query = f'SELECT entity_key, feature_name, value FROM "{table}" WHERE entity_key IN '

    def cells(self, user_ids: Sequence[str], names: Sequence[str]) -> Cells:
        place = {user_key(user_id): number for number, user_id in enumerate(user_ids)}
        cells: dict[str, list[bytes]] = {name: [b""] * len(user_ids) for name in names}
        nowhere = [b""] * len(user_ids)  # features that nobody asks for: leaving them out of the query takes longer
        for key, name, value in self._connection.execute(f"{self._query}({','.join('?' * len(place))})", [*place]):
            cells.get(name, nowhere)[place[key]] = value
        return cells

    def close(self) -> None:
        self._connection.close()


class RedisRowReader:
    """From Feast's hashes, all users in one round trip."""

    def __init__(self, connection: str, project: str) -> None:
        self._client: Redis = redis_of(*RedisOnlineStore._parse_connection_string(connection))
        self._project = project
        self._loaded_key = serialize_entity_key(LOADED) + project.encode()

    def cells(self, user_ids: Sequence[str], names: Sequence[str]) -> Cells:
        fields, end = [field_name(name) for name in names], self._project.encode()
        pipe = self._client.pipeline(transaction=False)
        for user_id in user_ids:
            pipe.hmget(user_key(user_id) + end, fields)
        rows = pipe.execute()
        if not any(value for row in rows for value in row) and not self._client.exists(self._loaded_key):
            # A Redis that restarted empty, or whose project was dropped, knows nobody either.
            raise StoreError(
                f"the Redis does not hold the users of project {self._project!r} (any more); run `export` again"
            )
        return {
            name: [value or b"" for value in column]
            for name, column in zip(names, zip(*rows, strict=True), strict=True)
        }

    def close(self) -> None:
        self._client.close()
