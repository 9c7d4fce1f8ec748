"""Users into Redis, in bulk, and out again: the keys, fields and bytes that Feast's own Redis store writes.

Feast builds a client command a user. Here a batch of users becomes the bytes of Redis' protocol at once, goes out in
one write, and only the replies are read one by one.
"""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from feast import RepoConfig
from feast.infra.key_encoding_utils import serialize_entity_key, serialize_entity_key_prefix
from feast.infra.online_stores.helpers import _mmh3
from feast.infra.online_stores.redis import RedisOnlineStore
from feast.protos.feast.types.Value_pb2 import Value
from google.protobuf.timestamp_pb2 import Timestamp
from redis import Redis, RedisError

from features.store.config import OnlineStoreConfig, StoreError
from features.store.repository import KEY, LOADED, STATE_COLUMNS, VIEW, connection_string, online_settings
from features.store.user_rows import UserRows, UsersFile
from features.store.value_bytes import concatenated

LOAD_TIMEOUT_SECONDS = 60
"""Loading waits longer for Redis than a request does."""
TIMESTAMP_FIELD = f"_ts:{VIEW}".encode()
"""Of a row: the time that Feast takes it to be from."""
_KEYS_PER_SCAN = 10_000


def load_redis(config: RepoConfig, users: UsersFile, as_of: datetime, progress: Callable[[int, int], None]) -> None:
    """Write all users, then the row LOADED.

    A project that was loaded before keeps each row that is newer than `as_of`, as Feast does: live events wrote it.
    What a broken load left is written over.

    Args:
        config: of the Feast repository; its project keeps the rows apart from other deployments' rows.
        progress: called with the users written so far, and in all.
    Raises: StoreError if Redis cannot be reached, refuses a row, or is full.
    """
    project = config.project.encode()
    online = online_settings(config)
    ttl_seconds = online.key_ttl_seconds or 0
    timestamp = Timestamp()
    timestamp.FromDatetime(as_of)
    with _client(online.connection_string) as client:
        loaded_key = serialize_entity_key(LOADED) + project
        is_loaded, num_done = client.exists(loaded_key), 0
        with _pipe(client) as replies_of:
            for rows in users.batches():
                num_done += len(rows)
                kept = _not_newer(replies_of, rows, project, timestamp) if is_loaded else rows
                if len(kept):
                    replies_of(_hset(kept, project, timestamp, ttl_seconds), 2 if ttl_seconds else 1)
                progress(num_done, users.num_users)
        said = {TIMESTAMP_FIELD: timestamp.SerializeToString(), field_name(STATE_COLUMNS[0]): _count(users.num_users)}
        client.hset(loaded_key, mapping=said)  # pyright: ignore[reportArgumentType]  # bytes are fields, too


def redis_projects(config: OnlineStoreConfig) -> dict[str, int]:
    """Users of each Feast project in the Redis, those that an interrupted load left included."""
    with _client(connection_string(config)) as client:
        found = Counter(project for _, project in _user_keys(client, b""))
    return {project.decode(): num_users for project, num_users in sorted(found.items())}


def drop_redis_project(connection: str, project: str) -> int:
    """Remove LOADED, so that no server takes what is left for a store, then the users of the project.

    Args:
        connection: the Redis as `connection_string` says it.
    Returns: users removed.
    Raises: StoreError if Redis cannot be reached.
    """
    name, num_users = project.encode(), 0
    with _client(connection) as client:
        client.unlink(serialize_entity_key(LOADED) + name, applied_key(project))
        doomed: list[bytes] = []
        for key, owner in _user_keys(client, name):
            doomed += [key] if owner == name else []
            if len(doomed) == _KEYS_PER_SCAN:
                num_users, doomed = num_users + client.unlink(*doomed), []
        return num_users + (client.unlink(*doomed) if doomed else 0)


def field_name(name: str) -> bytes:
    """A feature's field in a user's hash."""
    return _mmh3(f"{VIEW}:{name}")


def applied_key(project: str) -> str:
    """The hash that says, journal by journal, up to which live event the project's rows are."""
    return f"cascade_applied:{project}"


def redis_of(nodes: list[dict], options: dict) -> Redis:
    """A client of what Feast's connection string says.

    Raises: StoreError unless that is one host and port.
    """
    if len(nodes) != 1 or "port" not in nodes[0]:
        raise StoreError(
            "the online store's Redis must be one host:port; clusters and sentinels are not loaded in bulk; check "
            "online_store.redis, or the variable that online_store.connection_string_env names"
        )
    return Redis(**nodes[0], **options | {"decode_responses": False})  # pyright: ignore[reportArgumentType]


@contextmanager
def _client(connection: str) -> Iterator[Redis]:
    nodes, options = RedisOnlineStore._parse_connection_string(connection)
    client = redis_of(nodes, options | {"socket_timeout": LOAD_TIMEOUT_SECONDS})
    try:
        yield client
    except RedisError as error:
        raise StoreError(
            f"the Redis at {nodes[0]['host']}:{nodes[0]['port']} did not do what the online store needs "
            f"({type(error).__name__}: {error}); check that it runs and has memory, then run the stage again"
        ) from error
    finally:
        client.close()


@contextmanager
def _pipe(client: Redis) -> Iterator[Callable[[pa.LargeBinaryArray, int], list]]:
    """A function that sends [B] commands and returns their replies."""
    connection = client.connection_pool.get_connection()

    def replies_of(commands: pa.LargeBinaryArray, replies_per_row: int) -> list:
        _, offsets, data = commands.buffers()
        end = np.frombuffer(offsets, dtype=np.int64)[len(commands)]
        connection.send_packed_command([memoryview(data)[:end]])
        return [connection.read_response(disable_decoding=True) for _ in range(replies_per_row * len(commands))]

    try:
        yield replies_of
    finally:
        connection.disconnect()
        client.connection_pool.release(connection)


def _hset(rows: UserRows, project: bytes, timestamp: Timestamp, ttl_seconds: int) -> pa.LargeBinaryArray:
    """[B] the command HSET with all fields of a user, then EXPIRE if a row's time is limited."""
    values, key = rows.values(), _bulk(concatenated(rows.keys, project))
    num_words = 2 + 2 * (1 + len(values))
    parts = [_array(num_words), _bulk_text(b"HSET"), *key, _bulk_text(TIMESTAMP_FIELD)]
    parts.append(_bulk_text(timestamp.SerializeToString()))
    for name, column in values.items():
        parts += [_bulk_text(field_name(name)), *_bulk(column)]
    if ttl_seconds:
        parts += [_array(3), _bulk_text(b"EXPIRE"), *key, _bulk_text(b"%d" % ttl_seconds)]
    return concatenated(*parts)


def _not_newer(replies_of, rows: UserRows, project: bytes, timestamp: Timestamp) -> UserRows:
    """The users whose stored row is missing, or not newer than the timestamp."""
    key = _bulk(concatenated(rows.keys, project))
    replies = replies_of(concatenated(_array(3), _bulk_text(b"HGET"), *key, _bulk_text(TIMESTAMP_FIELD)), 1)
    told = [reply and Timestamp.FromString(reply).ToNanoseconds() for reply in replies]
    kept = pa.array([nanoseconds is None or nanoseconds <= timestamp.ToNanoseconds() for nanoseconds in told])
    return UserRows(rows.keys.filter(kept), rows.features.filter(kept))


def _user_keys(client: Redis, project: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys of users whose project ends so, each with its project, which is what follows the id."""
    before = serialize_entity_key_prefix([KEY])
    for key in client.scan_iter(before + b"*" + project, count=_KEYS_PER_SCAN):
        (num_bytes,) = struct.unpack_from("<I", key, len(before) + 4)
        yield key, key[len(before) + 8 + num_bytes :]


def _count(number: int) -> bytes:
    return Value(int64_val=number).SerializeToString()


def _array(num_words: int) -> bytes:
    return b"*%d\r\n" % num_words


def _bulk_text(word: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(word), word)


def _bulk(column: pa.LargeBinaryArray) -> tuple[pa.LargeBinaryArray, pa.LargeBinaryArray, bytes]:
    """A column as words of the protocol: the length, the bytes, the end."""
    lengths = pc.binary_length(column).dictionary_encode()
    heads = pa.array([b"$%d\r\n" % length for length in lengths.dictionary.to_pylist()], pa.large_binary())
    return heads.take(lengths.indices), column, b"\r\n"
