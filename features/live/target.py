"""A version of the served model whose online store takes live events, and bringing a journal into it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from itertools import accumulate
from pathlib import Path

from feast.protos.feast.types.Value_pb2 import Value

from features.live.encoding import Encoding
from features.live.event import Event
from features.live.journal import Journal
from features.live.user_state import LiveEvent, with_events
from features.store.repository import SEEN
from features.store.row_update import Row, StoredRows, stored_rows

STORE, ITEMS = "ensemble/store", "ensemble/items.parquet"
"""Within a version's folder."""
EVENTS_PER_CHANGE = 512
"""Events of one transaction of the store: readers of SQLite are not held up, other writers only so long."""


class Target:
    """One version; its store may be written by other processes, too.

    Args:
        version_folder: `<repository>/cascade/<version>`.
    Raises: ArtifactError if its store takes no live events.
    """

    def __init__(self, version_folder: Path) -> None:
        self.folder = version_folder
        self.encoding = Encoding(version_folder / STORE, version_folder / ITEMS)
        self._rows: StoredRows | None = None
        self._lock = threading.Lock()

    def catch_up(self, journal: Journal) -> int:
        """Bring what the journal has, and the store has not, into the store.

        Returns: the events that were looked at.
        Raises: whatever the store does when it cannot be read or written; the next call opens it anew.
        """
        with self._lock:
            try:
                return self._caught_up(journal)
            except Exception:
                self._close()
                raise

    def close(self) -> None:
        with self._lock:
            self._close()

    def _close(self) -> None:
        if self._rows is not None:
            self._rows.close()
        self._rows = None

    def _caught_up(self, journal: Journal) -> int:
        self._rows = self._rows or stored_rows(self.folder / STORE)
        number, num_events = self._rows.applied(journal.id), 0
        while True:
            events, last = journal.after(number, EVENTS_PER_CHANGE)
            if not events:
                return num_events
            self._apply(self._rows, events, journal.id, last)
            number, num_events = last, num_events + len(events)

    def _apply(self, rows: StoredRows, events: Sequence[Event], journal: str, number: int) -> None:
        of_user: dict[str, list[LiveEvent]] = {}
        for event in events:
            live = self.encoding.live_event(event)
            if live is not None:
                of_user.setdefault(event.user_id, []).append(live)
        names = [*self.encoding.names, SEEN] if self._looks_back(of_user.values()) else self.encoding.names
        moment = max(self.encoding.as_of, *(event.timestamp for event in events))

        def change(stored: Sequence[Row]) -> list[dict[str, Value]]:
            return [changed_values(self.encoding, row, new) for row, new in zip(stored, of_user.values(), strict=True)]

        rows.update(list(of_user), names, change, moment, journal, number)

    def _looks_back(self, events: Collection[Sequence[LiveEvent]]) -> bool:
        """Whether the items of the log's past must be read: for events that happened in its time."""
        return any(event.timestamp < self.encoding.as_of for new in events for event in new)


def changed_values(encoding: Encoding, row: Mapping[str, Value], events: Sequence[LiveEvent]) -> dict[str, Value]:
    """What events change in a user's row; nothing if they are in it already.

    Args:
        row: the features that `Encoding.names` lists, and SEEN for events from before `Encoding.as_of`; empty for an
            unknown user.
    """
    before = encoding.state(row)
    after, newest = with_events(before, events, encoding.as_of, _seen_of(row))
    if after is before:
        return {}
    values = encoding.values(after, newest)
    return values if "num_events" in row else values | encoding.attributes_of_unknown()


def replay(journal: Path, version_folder: Path) -> int:
    """Bring a version that is being staged up to all events accepted so far.

    Safe beside a running server and any number of times: what the store has already changes nothing. Once the folder
    stands in the served repository the server's own events process brings the version every later event, so nothing
    falls between the two.

    Args:
        journal: the serve folder's `events.db`; may be missing, when there was never an event.
        version_folder: `<repository>/cascade/<version>`.
    Returns: the events that were looked at.
    Raises: ArtifactError if the version's store takes no live events; StoreError or the engine's own error if it
        cannot be written.
    """
    if not journal.is_file():
        return 0
    target = Target(version_folder)
    with Journal(journal) as opened:
        try:
            return target.catch_up(opened)
        finally:
            target.close()


def _seen_of(row: Mapping[str, Value]) -> Callable[[], Collection[int]]:
    return lambda: set(accumulate(row[SEEN].int64_list_val.val)) if SEEN in row else ()
