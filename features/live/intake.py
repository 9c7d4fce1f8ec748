"""Taking events: check, journal, then the stores of every served version, at once or as soon as they are there."""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Self

from features.errors import CascadeError
from features.live.config import EventsConfig
from features.live.event import ACCEPTED, REJECTED, UNKNOWN_ITEM, Event, EventError
from features.live.journal import Journal
from features.live.target import STORE, Target
from features.store.live_file import FILE

log = logging.getLogger(__name__)

SECONDS_PER_DAY = 86_400
_SECONDS_BETWEEN_CLEANINGS = 3_600.0
_NEW = "new"


class NoVersionError(CascadeError, RuntimeError):
    """No served version takes events: nothing can be said of their items."""


class Intake:
    """Accepted means journaled. A store that cannot be written now gets the event from a thread, later.

    Every version that stands in the repository is a target, served or not: one that is kept to roll back to knows the
    users as well as the one that is live, and one that is being staged misses nothing.

    Args:
        models: folder of the model `cascade`, with a folder a version.
        journal: the journal's file.
        watch: told now and then how many versions' stores lack accepted events.
    """

    def __init__(
        self, models: Path, journal: Path, config: EventsConfig, watch: Callable[[int], None] = lambda num_behind: None
    ) -> None:
        self._watch = watch
        self._models = models
        self._config = config
        self._journal = Journal(journal, config.max_events_per_user)
        self._targets: dict[Path, Target] = {}
        self._files: dict[Path, int] = {}
        self._behind: dict[Path, str] = {}
        self._lock = threading.Lock()  # of the three above; each target has one of its own
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._go_on, name="live events", daemon=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Bring every version up to the journal, as far as it can be written, and begin to look after them."""
        self._bring_up()
        self._thread.start()

    def close(self) -> None:
        """Stop; what is journaled stays."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for target in self._targets.values():
                target.close()
        self._journal.close()

    @property
    def behind(self) -> dict[Path, str]:
        """The versions whose stores lack accepted events, and why."""
        with self._lock:
            return dict(self._behind)

    def push(self, columns: Sequence[Sequence[Any]]) -> list[str]:
        """Take events.

        Args:
            columns: event ids, user ids, item ids, timestamps and attributes as callers send them, [B] each.
        Returns: [B] statuses: `accepted`, `duplicate`, `unknown_item`, or `rejected: ` and the reason.
        Raises: JournalError if nothing could be made durable; NoVersionError.
        """
        targets = self._found_targets()
        if not targets:
            raise NoVersionError(f"{self._models} holds no version whose store takes live events; run `export` again")
        checked = [self._checked(targets, values) for values in zip(*columns, strict=True)]
        events = [event for event in checked if isinstance(event, Event)]
        taken = iter(self._journal.append(events) if events else [])
        statuses = [next(taken) if isinstance(event, Event) else event for event in checked]
        if ACCEPTED in statuses:
            behind = self.behind  # a store that is down costs its callers nothing
            for target in targets:
                if target.folder not in behind:
                    self._apply(target)
        return statuses

    def _checked(self, targets: Sequence[Target], values: Sequence[Any]) -> Event | str:
        """The event, or its status if it is not taken."""
        categories = {name for target in targets for name in target.encoding.categories}
        try:
            event = Event.of(*values, categories=categories, max_future_seconds=self._config.max_future_seconds)
        except EventError as error:
            return f"{REJECTED}: {error}"
        return event if any(target.encoding.knows(event.item_id) for target in targets) else UNKNOWN_ITEM

    def _found_targets(self) -> list[Target]:
        """Of the versions that are there now."""
        with self._lock:
            there = _versions(self._models)
            for gone in [path for path, file in self._files.items() if there.get(path) != file]:
                del self._files[gone]
                self._behind.pop(gone, None)
                if target := self._targets.pop(gone, None):
                    target.close()
            for new in sorted(there.keys() - self._targets.keys()):
                self._files[new] = there[new]
                try:
                    self._targets[new] = Target(new)
                except (CascadeError, OSError) as error:
                    self._note(new, error)
                else:
                    self._behind[new] = _NEW  # our thread brings it up: a caller does not wait for the whole journal
            return list(self._targets.values())

    def _apply(self, target: Target) -> None:
        """Bring one version up; if that fails, note it for our thread."""
        try:
            target.catch_up(self._journal)
        except Exception as error:  # whatever the store does, the events are safe and are tried again
            with self._lock:
                self._note(target.folder, error)
            return
        with self._lock:
            if self._behind.pop(target.folder, _NEW) != _NEW:
                log.warning("the store of %s takes events again and has all of them", target.folder)

    def _note(self, folder: Path, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if self._behind.get(folder) != said:
            log.warning("events wait in the journal for the store of %s: %s", folder, said)
        self._behind[folder] = said

    def _bring_up(self) -> None:
        for target in self._found_targets():
            self._apply(target)
        self._watch(len(self.behind))

    def _go_on(self) -> None:
        cleaned = 0.0
        while not self._stop.wait(self._config.retry_seconds):
            try:
                self._bring_up()
                if time.monotonic() - cleaned > _SECONDS_BETWEEN_CLEANINGS:
                    self._journal.forget(time.time() - self._config.keep_days * SECONDS_PER_DAY)
                    cleaned = time.monotonic()
            except Exception:  # the thread must outlive a full disk
                log.exception("bringing live events into the stores failed; it is tried again")


def _versions(models: Path) -> dict[Path, int]:
    """The versions whose stores take events, each with the number of a file that tells it from one put in its place."""
    found = {}
    for version in models.iterdir():
        with contextlib.suppress(OSError):  # no store: a router; or it was removed just now
            found[version] = (version / STORE / FILE).stat().st_ino
    return found
