"""Users into the SQLite file that Feast made, in bulk.

Feast executes a statement a feature. Here one statement takes all features of several users, in the order of the
primary key so that the indexes grow at their end, on a file that nobody reads yet and that needs no journal.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import pyarrow as pa
from feast.infra.online_stores.sqlite import adapt_datetime_epoch
from feast.utils import to_naive_utc

from features.store.config import StoreError
from features.store.user_rows import UsersFile, one_ahead
from features.store.value_bytes import is_list, value_texts

USERS_PER_STATEMENT = 16
PAGE_BYTES = 8_192
"""Twice Feast's: a user's rows take about 1.5 KB, of which two indexes hold copies of the key."""
_NO_SAFETY = ("journal_mode=off", "synchronous=off", "locking_mode=exclusive", "secure_delete=off", "cache_size=-65536")
"""A killed load leaves a file that must be thrown away: `write_online_store` gives it its name afterwards."""


def load_sqlite(
    path: Path, table: str, users: UsersFile, as_of: datetime, progress: Callable[[int, int], None]
) -> None:
    """Fill Feast's empty table and bring the file to the disk.

    Args:
        table: Feast's name of it.
        progress: called with the users written so far, and in all.
    Raises: StoreError if a user comes twice, or the disk is full.
    """
    names = sorted(users.schema.names)
    has_text = {name: not is_list(users.schema.field(name).type) for name in names}
    timestamp = adapt_datetime_epoch(to_naive_utc(as_of))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        connection.execute(f"PRAGMA page_size={PAGE_BYTES}")
        connection.execute("VACUUM")  # of empty tables: the page size takes effect
        for setting in _NO_SAFETY:
            connection.execute(f"PRAGMA {setting}")
        connection.execute("BEGIN")
        num_written = 0
        for columns in one_ahead(_columns(users, names)):
            num_written += _insert(connection, table, has_text, timestamp, columns)
            progress(num_written, users.num_users)
        connection.execute("COMMIT")
    except sqlite3.IntegrityError as error:
        raise StoreError(f"users.parquet: a raw_id comes twice ({error}); rerun `etl`") from error
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be written ({error}); is the disk full? Run `export` again") from error
    finally:
        connection.close()
    with path.open("rb") as stream:
        os.fsync(stream.fileno())


def _columns(users: UsersFile, names: list[str]) -> Iterator[list[list]]:
    """Of each batch what a statement is told: keys, then of each feature its bytes and, unless a list, its text."""
    for rows in users.batches():
        columns, values = [_objects(rows.keys)], rows.values()
        for name in names:
            texts = value_texts(rows.features.column(name))
            columns += [_objects(values[name])] + ([_objects(texts)] if texts is not None else [])
        yield columns


def _objects(array: pa.Array) -> list:
    return array.to_numpy(zero_copy_only=False).tolist()


def _insert(connection: sqlite3.Connection, table: str, has_text: dict[str, bool], timestamp: int, columns) -> int:
    """Returns: users inserted."""
    num_users, width = len(columns[0]), len(columns)
    at_once = max(1, min(USERS_PER_STATEMENT, connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) // width))
    whole = num_users - num_users % at_once
    together = [column[place:whole:at_once] for place in range(at_once) for column in columns]
    connection.executemany(_statement(table, has_text, timestamp, width, at_once), zip(*together, strict=True))
    rest = [column[whole:] for column in columns]
    connection.executemany(_statement(table, has_text, timestamp, width, 1), zip(*rest, strict=True))
    return num_users


def _statement(table: str, has_text: dict[str, bool], timestamp: int, width: int, num_users: int) -> str:
    """INSERT of `num_users` users; a user has `width` parameters, the first is the key."""
    rows = []
    for key in range(1, num_users * width, width):
        place = key
        for name, texts in has_text.items():
            text = f"?{place + 2}" if texts else "NULL"
            rows.append(f"(?{key}, {_quoted(name)}, ?{place + 1}, {text}, {timestamp})")
            place += 1 + texts
    return f'INSERT INTO "{table}" (entity_key, feature_name, value, value_text, event_ts) VALUES {", ".join(rows)}'


def _quoted(name: str) -> str:
    return "'" + name.replace("'", "''") + "'"
