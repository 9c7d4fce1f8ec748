"""Changing single users' rows while they are being read: SQLite or Redis, in Feast's formats.

A change and the note up to which event of a journal the store is are one transaction: after a crash a store holds both
or neither, and readers see a whole row or the one before.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

from feast import RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis, WatchError

from features.store.config import StoreError
from features.store.redis_rows import TIMESTAMP_FIELD, applied_key, field_name, redis_of
from features.store.repository import LOADED, ONLINE, VIEW, online_settings, readable_config
from features.store.row_reader import user_key

BUSY_SECONDS = 5.0
MAX_CONFLICTS = 20
"""Tries against other writers of the same Redis rows before the change is put off."""
Row = Mapping[str, Value]
Change = Callable[[Sequence[Row]], Sequence[dict[str, Value]]]
"""From the rows of some users, an empty one for an unknown user, to what is to be written of each: may be nothing. It
may be called several times."""


class StoredRows(Protocol):
    """Rows of one store."""

    def applied(self, journal: str) -> int:
        """Number of the last event of a journal that the store holds; 0 for none.

        Raises: StoreError, or the engine's own error, if the store cannot be read.
        """
        ...

    def update(
        self, user_ids: Sequence[str], names: Sequence[str], change: Change, moment: int, journal: str, number: int
    ) -> None:
        """Read the named features of distinct users, write what `change` makes of them, note the event; or nothing.

        Args:
            moment: Unix seconds, the row's time in Feast's eyes.
            number: of the last event that is in it.
        """
        ...

    def close(self) -> None: ...


def stored_rows(folder: Path) -> StoredRows:
    """The rows of the store in a folder.

    Raises: ArtifactError if the folder is no store, or its rows are of another form; StoreError if SQLite's file is
        missing.
    """
    config = readable_config(folder)
    if online_settings(config).type == "redis":
        return RedisStoredRows(config)
    return SqliteStoredRows(folder / ONLINE, f"{config.project}_{VIEW}")


class SqliteStoredRows:
    """In a file; readers in other processes go on undisturbed, as it is in WAL mode from the first change."""

    def __init__(self, path: Path, table: str) -> None:
        if not path.is_file():  # SQLite would make an empty one
            raise StoreError(f"{path} is missing; run `export` again")
        self._connection = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        self._table = table
        self._connection.execute("PRAGMA journal_mode=WAL")
        self._connection.execute("PRAGMA synchronous=NORMAL")  # what a power cut takes is applied again
        self._connection.execute("CREATE TABLE IF NOT EXISTS cascade_applied(journal TEXT PRIMARY KEY, number INTEGER)")

    def applied(self, journal: str) -> int:
        found = self._connection.execute("SELECT number FROM cascade_applied WHERE journal = ?", [journal]).fetchone()
        return found[0] if found else 0

    def update(
        self, user_ids: Sequence[str], names: Sequence[str], change: Change, moment: int, journal: str, number: int
    ) -> None:
        with self._transaction() as run:
            keys = [user_key(user_id) for user_id in user_ids]
            rows = [self._row(run, key, names) for key in keys]
            for key, values in zip(keys, change(rows), strict=True):
                for name, value in values.items():
                    cell = (key, name, value.SerializeToString(), _text(value), moment)
                    run(
                        f'INSERT INTO "{self._table}" (entity_key, feature_name, value, value_text, event_ts) '
                        "VALUES (?, ?, ?, ?, ?) ON CONFLICT(entity_key, feature_name) DO UPDATE SET "
                        "value = excluded.value, value_text = excluded.value_text, event_ts = excluded.event_ts",
                        cell,
                    )
            run(
                "INSERT INTO cascade_applied VALUES (?, ?) ON CONFLICT(journal) DO UPDATE SET "
                "number = max(number, excluded.number)",
                (journal, number),
            )

    def close(self) -> None:
        self._connection.close()

    @contextmanager
    def _transaction(self) -> Iterator[Callable]:
        run = self._connection.execute
        run("BEGIN IMMEDIATE")
        try:
            yield run
            run("COMMIT")
        except BaseException:
            if self._connection.in_transaction:
                run("ROLLBACK")
            raise

    def _row(self, run: Callable, key: bytes, names: Sequence[str]) -> Row:
        found = run(
            f'SELECT feature_name, value FROM "{self._table}" WHERE entity_key = ? '
            f"AND feature_name IN ({','.join('?' * len(names))})",
            (key, *names),
        )
        return {name: Value.FromString(value) for name, value in found}


class RedisStoredRows:
    """In a Redis that other servers may write, too: a row that one of them changed meanwhile is read again."""

    def __init__(self, config: RepoConfig) -> None:
        online = online_settings(config)
        nodes, options = RedisOnlineStore._parse_connection_string(online.connection_string)
        self._client: Redis = redis_of(nodes, options)
        self._project = config.project
        self._ttl_seconds = online.key_ttl_seconds or 0
        self._loaded_key = serialize_entity_key(LOADED) + config.project.encode()
        self._applied_key = applied_key(config.project)

    def applied(self, journal: str) -> int:
        pipe = self._client.pipeline(transaction=False)
        pipe.exists(self._loaded_key)
        pipe.hget(self._applied_key, journal)
        is_loaded, number = pipe.execute()
        if not is_loaded:
            raise StoreError(
                f"the Redis does not hold the users of project {self._project!r} (any more); run `export` again"
            )
        return int(number or 0)

    def update(
        self, user_ids: Sequence[str], names: Sequence[str], change: Change, moment: int, journal: str, number: int
    ) -> None:
        keys = [user_key(user_id) + self._project.encode() for user_id in user_ids]
        for _ in range(MAX_CONFLICTS):
            with self._client.pipeline() as pipe:
                try:
                    pipe.watch(*keys, self._applied_key)
                    noted = int(pipe.hget(self._applied_key, journal) or 0)  # pyright: ignore[reportArgumentType]
                    changed = change(self._read(keys, names))
                    pipe.multi()
                    for key, values in zip(keys, changed, strict=True):
                        if values:
                            self._write(pipe, key, values, moment)
                    pipe.hset(self._applied_key, journal, max(noted, number))  # pyright: ignore[reportArgumentType]
                    pipe.execute()
                    return
                except WatchError:
                    continue
        raise StoreError(
            f"other writers kept changing the same users of project {self._project!r}; will be tried again"
        )

    def close(self) -> None:
        self._client.close()

    def _read(self, keys: Sequence[bytes], names: Sequence[str]) -> list[Row]:
        """On a connection of its own: the watched one would need a round trip a user."""
        pipe = self._client.pipeline(transaction=False)
        for key in keys:
            pipe.hmget(key, [field_name(name) for name in names])
        return [
            {name: Value.FromString(value) for name, value in zip(names, values, strict=True) if value is not None}
            for values in pipe.execute()
        ]

    def _write(self, pipe, key: bytes, values: dict[str, Value], moment: int) -> None:
        stamp = Timestamp(seconds=moment, nanos=1)  # newer than a load as of that very second: it keeps the row
        cells = {field_name(name): value.SerializeToString() for name, value in values.items()}
        pipe.hset(key, mapping={TIMESTAMP_FIELD: stamp.SerializeToString(), **cells})
        if self._ttl_seconds:
            pipe.expire(key, self._ttl_seconds)


def _text(value: Value) -> str | None:
    """What Feast keeps beside a value to filter by; None for a list."""
    kind = value.WhichOneof("val")
    return None if kind is None or kind.endswith("list_val") else str(getattr(value, kind))
