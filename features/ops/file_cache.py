"""FileCache: what was made of a file, kept in memory as long as the file stays the same."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Generic, TypeVar

Made = TypeVar("Made")


class FileCache(Generic[Made]):
    """One value a file, for all threads of a process; it goes when the file is changed or deleted."""

    def __init__(self) -> None:
        self._entries: dict[str, tuple[tuple[int, ...], Made]] = {}
        self._making: dict[str, threading.Lock] = {}
        self._lock = threading.RLock()  # a garbage collection may forget an entry anywhere

    def get(self, path: Path | str, make: Callable[[], Made]) -> Made:
        """The value of a file, made if it is not known; of several threads one makes it."""
        path = str(path)
        with self._lock:
            making = self._making.setdefault(path, threading.Lock())
        with making:
            found = self._entries.get(path)
            if found is not None and found[0] == _stamp(path):
                return found[1]
            self.put(path, made := make())
            return made

    def put(self, path: Path | str, made: Made, owner: object | None = None) -> None:
        """Say what the file's value is. Forgets the files that are gone.

        Args:
            owner: the value is forgotten with it; whoever needs the file afterwards reads it.
        """
        if owner is not None:
            weakref.finalize(owner, self._forget, str(path), made).atexit = False
        with self._lock:
            for gone in [known for known in list(self._entries) if not os.path.exists(known)]:
                self._entries.pop(gone, None)
                self._making.pop(gone, None)
            self._making.setdefault(str(path), threading.Lock())
            self._entries[str(path)] = _stamp(str(path)), made

    def _forget(self, path: str, made: Made) -> None:
        with self._lock:
            if path in self._entries and self._entries[path][1] is made:
                self._entries.pop(path)


def _stamp(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino
