"""The journal: every accepted event, on the disk before anybody is told so. What the stores hold follows from it.

An event has a number, which grows in the order of acceptance, so that a store has only to note up to which one it is.
An event id is taken once; so is an interaction, which is a user, an item and a second: a producer whose ids change when
it sends again does no harm.
"""

from __future__ import annotations

import sqlite3
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Self

from features.errors import CascadeError
from features.live.event import ACCEPTED, DUPLICATE, REJECTED, Event

BUSY_SECONDS = 10.0
"""How long one process waits for another that writes."""
_TABLES = """
CREATE TABLE IF NOT EXISTS events(
    number INTEGER PRIMARY KEY AUTOINCREMENT,
    event_id TEXT NOT NULL UNIQUE,
    user_id TEXT NOT NULL,
    item_id TEXT NOT NULL,
    timestamp INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    received INTEGER NOT NULL,
    UNIQUE(user_id, item_id, timestamp)
);
CREATE TABLE IF NOT EXISTS journal(one INTEGER PRIMARY KEY CHECK (one = 1), id TEXT NOT NULL);
"""
_INSERT = (
    "INSERT OR IGNORE INTO events(event_id, user_id, item_id, timestamp, attributes, received) VALUES (?,?,?,?,?,?)"
)


class JournalError(CascadeError, RuntimeError):
    """The journal cannot be opened or written: nothing was accepted. The message says which file and what to do."""


class Journal:
    """A SQLite file; several processes and threads may have it open.

    Args:
        path: made if it is not there; its folder must be.
        max_events_per_user: more of one user are rejected.
    Raises: JournalError.
    """

    def __init__(self, path: Path, max_events_per_user: int = 5_000) -> None:
        self.path = path
        self._max_events_per_user = max_events_per_user
        self._lock = threading.Lock()
        try:
            self._connection = sqlite3.connect(path, BUSY_SECONDS, isolation_level=None, check_same_thread=False)
            self._connection.execute("PRAGMA journal_mode=WAL")
            self._connection.execute("PRAGMA synchronous=FULL")  # on the disk at every commit
            self._connection.executescript(_TABLES)
            self._connection.execute("INSERT OR IGNORE INTO journal VALUES (1, ?)", [uuid.uuid4().hex])
            (self.id,) = self._connection.execute("SELECT id FROM journal").fetchone()
        except sqlite3.Error as error:
            raise JournalError(
                f"the journal of live events {path} cannot be opened ({error}); check the folder, its rights and the "
                "disk; a damaged file must be restored or moved away"
            ) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._connection.close()

    def append(self, events: Sequence[Event]) -> list[str]:
        """Take the events in one transaction, which is on the disk when this returns.

        Returns: of each ACCEPTED, DUPLICATE, or REJECTED with the reason.
        Raises: JournalError; nothing was taken then.
        """
        with self._lock:
            run = self._connection.execute
            try:
                run("BEGIN IMMEDIATE")
                statuses = [self._take(event) for event in events]
                run("COMMIT")
            except sqlite3.Error as error:
                if self._connection.in_transaction:
                    run("ROLLBACK")
                raise JournalError(
                    f"the journal of live events {self.path} cannot be written ({error}); nothing was accepted; is the "
                    "disk full? Send the events again"
                ) from error
        return statuses

    def after(self, number: int, limit: int) -> tuple[list[Event], int]:
        """The next events behind a number, in the order of acceptance, and the number of the last one of them."""
        with self._lock:
            rows = self._connection.execute(
                "SELECT number, event_id, user_id, item_id, timestamp, attributes, received FROM events "
                "WHERE number > ? ORDER BY number LIMIT ?",
                [number, limit],
            ).fetchall()
        return [Event(*row[1:]) for row in rows], rows[-1][0] if rows else number

    def last_number(self) -> int:
        """Number of the latest event; 0 if there was none."""
        with self._lock:
            found = self._connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'events'").fetchone()
        return found[0] if found else 0

    def forget(self, received_before: float) -> int:
        """Remove the events that came before a moment (Unix seconds). Returns: how many."""
        with self._lock:
            return self._connection.execute("DELETE FROM events WHERE received < ?", [received_before]).rowcount

    def _take(self, event: Event) -> str:
        row = (event.event_id, event.user_id, event.item_id, event.timestamp, event.attributes, event.received)
        if self._connection.execute(_INSERT, row).rowcount == 0:
            return DUPLICATE
        (num_events,) = self._connection.execute(
            "SELECT count(*) FROM (SELECT 1 FROM events WHERE user_id = ? LIMIT ?)",
            [event.user_id, self._max_events_per_user + 1],
        ).fetchone()
        if num_events <= self._max_events_per_user:
            return ACCEPTED
        self._connection.execute("DELETE FROM events WHERE event_id = ?", [event.event_id])
        return f"{REJECTED}: the journal has {num_events - 1} events of this user already, the most it takes"
