"""What happened since a release was made: from a file, or from the journal of its server."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from features.errors import CascadeError
from pipelines.event_files import file_events

JOURNAL = "events.db"


class LaterEvent(NamedTuple):
    """An interaction."""

    user_id: str
    item_id: str
    timestamp: int
    """Unix seconds at which it happened."""
    values: dict[str, object]
    """Its categories and price."""
    received: int | None = None
    """Unix seconds at which the server got it; None if nobody says."""


class LaterEventsError(CascadeError, ValueError):
    """The events cannot be read."""


def read_later_events(path: Path, timestamp_unit: str = "s") -> list[LaterEvent]:
    """The events of a file or of a journal, in the order of time.

    Args:
        path: `events.db` of a serve folder; or .parquet, .csv or JSON lines with user_id, item_id and timestamp.
    Raises: LaterEventsError, or EventFileError for a row that is no event.
    """
    if not path.is_file():
        raise LaterEventsError(f"{path}: there is no such file; --events names what the users did since the release")
    found = _journal(path) if path.suffix == ".db" else (LaterEvent(*one) for one in file_events(path, timestamp_unit))
    return sorted(found, key=lambda one: (one.timestamp, one.user_id, one.item_id))


def check_whole(journal: Path, as_of: int) -> None:
    """Raises: LaterEventsError if a journal has forgotten events that a release of that moment does not know."""
    connection = sqlite3.connect(f"file:{journal}?mode=ro", uri=True)
    first, received = connection.execute("SELECT min(number), min(received) FROM events").fetchone()
    connection.close()
    if first is not None and first > 1 and received > as_of:
        raise LaterEventsError(
            f"{journal}: has forgotten what came before {np.datetime64(received, 's')} UTC (serving.events.keep_days), "
            f"and the release knows the log only up to {np.datetime64(as_of, 's')}; give all events since with "
            "--events, or refresh the run"
        )


def _journal(path: Path) -> Iterator[LaterEvent]:
    """Read beside the server that writes it, and without a change."""
    try:
        connection = sqlite3.connect(f"file:{path}?mode=ro", uri=True)
        rows = connection.execute("SELECT user_id, item_id, timestamp, attributes, received FROM events").fetchall()
        connection.close()
    except sqlite3.Error as error:
        raise LaterEventsError(f"{path}: cannot be read as a journal of live events ({error})") from error
    for user, item, timestamp, attributes, received in rows:
        yield LaterEvent(user, item, timestamp, json.loads(attributes), received)
