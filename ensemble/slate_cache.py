"""SlateCache: slates made earlier, one a user, in a file that is written once and then only read.

Errors: SlateCacheError.

A SQLite file: `about` says what the slates are of, `items` the raw id of every item number, and `slates` holds each
user's item numbers, best first, and those of the items that the user must not get again. Numbers are those of the
catalogue that made the slates; whoever reads them may have another one, and translates by raw id.

Legend: I items of the catalogue that made the slates  n items of a slate
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from features.errors import CascadeError

FORMAT = 1
_NUMBER = np.dtype("<i4")
_TABLES = """
CREATE TABLE about (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE items (number INTEGER PRIMARY KEY, item_id TEXT NOT NULL);
CREATE TABLE slates (user_id TEXT PRIMARY KEY, slate BLOB NOT NULL, seen BLOB NOT NULL) WITHOUT ROWID;
"""


class SlateCacheError(CascadeError):
    """The file is no cache of slates, or of another format."""


class CachedSlate(NamedTuple):
    """Item rows of the catalogue that reads; items which that one does not have are left out."""

    row_n: np.ndarray
    """[n] int64, best first."""
    seen_row: np.ndarray
    """int64 rows of items that the user had already and must not get again, as of when the slate was made."""


def write_slates(
    path: Path,
    about: Mapping[str, Any],
    item_ids: Sequence[str],
    slates: Iterable[tuple[str, np.ndarray, np.ndarray]],
) -> int:
    """Write a file that nobody reads yet.

    Args:
        about: what the slates are of, as JSON values; `made_at` in Unix seconds must be among it.
        item_ids: [I] raw ids by number.
        slates: user id, [n] item numbers best first, and the numbers of the items that the user must not get again.
    Returns: number of users; of a user who comes twice the later slate stays.
    """
    path.unlink(missing_ok=True)
    with sqlite3.connect(path, isolation_level=None) as connection:
        connection.execute("PRAGMA journal_mode=off")  # a half-written file is thrown away
        connection.execute("PRAGMA synchronous=off")
        connection.executescript(_TABLES)
        connection.execute("BEGIN")
        texts = [(name, json.dumps(value)) for name, value in ({"format": FORMAT} | dict(about)).items()]
        connection.executemany("INSERT INTO about VALUES (?, ?)", texts)
        connection.executemany("INSERT INTO items VALUES (?, ?)", enumerate(item_ids))
        connection.executemany(
            "INSERT OR REPLACE INTO slates VALUES (?, ?, ?)",
            ((user, _bytes(slate), _bytes(seen)) for user, slate, seen in slates),
        )
        (num_users,) = connection.execute("SELECT count(*) FROM slates").fetchone()
        connection.execute("COMMIT")
    connection.close()
    with path.open("rb") as written:
        os.fsync(written.fileno())
    return num_users


class SlateCache:
    """The file, opened. It must be replaced as a whole, never written to: then an open one goes on as it was.

    Args:
        path: what `write_slates` wrote.
        rows_of: item rows of raw ids [I], -1 for one that the reader's catalogue does not have.
    Raises: SlateCacheError; OSError if the file is not there.
    """

    def __init__(self, path: Path, rows_of: Callable[[np.ndarray], np.ndarray]) -> None:
        self.path = path
        path.stat()
        # Immutable: no locks and no look at the file's state for each read. Not mapped into memory: that saves 10 of
        # 36 us, and a file that somebody truncates would kill the process instead of raising an error.
        self._connection = sqlite3.connect(f"{path.absolute().as_uri()}?immutable=1", uri=True, check_same_thread=False)
        try:
            self.about: dict[str, Any] = {
                name: json.loads(value) for name, value in self._connection.execute("SELECT name, value FROM about")
            }
            found = self.about.get("format")
            if found != FORMAT:
                raise SlateCacheError(
                    f"{path} has format {found}, this version reads {FORMAT}; run `cascade cache build`"
                )
            ids = [item_id for (item_id,) in self._connection.execute("SELECT item_id FROM items ORDER BY number")]
            age = time.time() - float(self.about["made_at"])
        except (sqlite3.DatabaseError, KeyError, ValueError, TypeError) as error:
            self.close()
            raise SlateCacheError(f"{path} is no cache of slates ({error!r}); run `cascade cache build`") from error
        self._made_at = time.monotonic() - max(age, 0.0)
        self._row_I = rows_of(np.array(ids, dtype=object))

    @property
    def age_seconds(self) -> float:
        """Since the slates were made. The wall clock is read once, at opening: its later steps change nothing."""
        return time.monotonic() - self._made_at

    def slate_of(self, user_id: str) -> CachedSlate | None:
        """A user's slate; None for a user whom the file does not have.

        Raises: SlateCacheError if the file is damaged.
        """
        try:
            found = self._connection.execute("SELECT slate, seen FROM slates WHERE user_id = ?", (user_id,)).fetchone()
        except sqlite3.Error as error:
            raise SlateCacheError(f"{self.path} cannot be read ({error}); run `cascade cache build`") from error
        return found and CachedSlate(self._rows(found[0]), self._rows(found[1]))

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def _rows(self, numbers: bytes) -> np.ndarray:
        rows = self._row_I[np.frombuffer(numbers, _NUMBER)]
        return rows[rows >= 0]


def _bytes(numbers: np.ndarray) -> bytes:
    return numbers.astype(_NUMBER).tobytes()
