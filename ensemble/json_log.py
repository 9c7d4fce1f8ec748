"""The log of the serving processes: one JSON object a line, written off the request path to a rotated file.

Several processes write to one file: a line is one `write` to the end of it, and whoever finds it full renames it.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import logging.handlers
import os
import queue
import sys
from collections.abc import Iterator, Sequence
from contextvars import ContextVar
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from ensemble.serving_metrics import metrics

PACKAGES = ("pipelines", "ensemble", "retrieval", "ranking", "features")
"""Ours: their INFO lines are written; of other libraries what is a warning or worse."""

_QUEUED_LINES = 10_000
_STOP_SECONDS = 2.0
_request_ids: ContextVar[tuple[str, ...]] = ContextVar("request_ids", default=())


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class JsonLogConfig:
    """Log of the serving processes, one JSON object a line."""

    file: Annotated[str, Field(min_length=1)] = "cascade.jsonl"
    """Where it is written; a relative path starts at the serve folder."""
    max_bytes: Annotated[int, Field(ge=10_000)] = 50_000_000
    """Bytes of a file before the next one is begun."""
    num_files: Annotated[int, Field(ge=1)] = 5
    """Files kept, the current one among them; the older ones end in .1, .2, ..."""


@contextlib.contextmanager
def log_lines_of(request_ids: Sequence[str]) -> Iterator[None]:
    """What is logged inside carries these request ids."""
    token = _request_ids.set(tuple(request_ids))
    try:
        yield
    finally:
        _request_ids.reset(token)


class JsonLog:
    """Takes over the logging of this process until it is closed: every line to the file, and warnings as text to
    stderr, which is Triton's log. When the disk is slow or full, lines are dropped and counted.

    Args:
        config: where to and how much.
        serve_folder: where a relative path starts.
        always: fields of every line, such as the version that writes it.
    """

    def __init__(self, config: JsonLogConfig, serve_folder: Path, **always: str) -> None:
        file = _RotatedFile(serve_folder / config.file, config.max_bytes, config.num_files)
        file.setFormatter(_JsonLine(always))
        self._queue = _DroppingQueueHandler(queue.Queue(_QUEUED_LINES))
        self._queue.addFilter(_with_request_ids)
        self._listener = _PatientListener(self._queue.queue, file)
        self._file = file
        self._text = logging.StreamHandler(sys.stderr)
        self._text.setLevel(logging.WARNING)
        self._text.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
        self._levels = {name: logging.getLogger(name).level for name in PACKAGES}
        for name in PACKAGES:
            logging.getLogger(name).setLevel(logging.INFO)
        for handler in (self._queue, self._text):
            logging.getLogger().addHandler(handler)
        self._listener.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Write what waits, and give the logging back as it was."""
        for handler in (self._queue, self._text):
            logging.getLogger().removeHandler(handler)
        for name, level in self._levels.items():
            logging.getLogger(name).setLevel(level)
        self._listener.stop()
        self._file.close()


def _with_request_ids(record: logging.LogRecord) -> bool:
    record.request_ids = _request_ids.get()
    return True


class _DroppingQueueHandler(logging.handlers.QueueHandler):
    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        record.message = record.getMessage()  # the values may change after the call
        return record

    def handleError(self, record: logging.LogRecord) -> None:  # the queue is full
        metrics.count("cascade_log_lines_dropped_total")


class _PatientListener(logging.handlers.QueueListener):
    """Its stop waits for room in a full queue, where the standard one raises, but not for ever."""

    def stop(self) -> None:
        with contextlib.suppress(queue.Full):
            self.queue.put(self._sentinel, timeout=_STOP_SECONDS)
            if self._thread:
                self._thread.join(_STOP_SECONDS)
        self._thread = None


class _JsonLine(logging.Formatter):
    def __init__(self, always: dict[str, str]) -> None:
        super().__init__()
        self._always = always | {"pid": os.getpid()}

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": record.message,
        }
        if request_ids := getattr(record, "request_ids", ()):
            line["request_ids"] = list(request_ids)
        line |= self._always
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class _RotatedFile(logging.Handler):
    """Appends lines to a file that other processes append to and rotate as well."""

    def __init__(self, path: Path, max_bytes: int, num_files: int) -> None:
        super().__init__()
        self._path = path
        self._max_bytes = max_bytes
        self._num_files = num_files
        self._descriptor: int | None = None

    def emit(self, record: logging.LogRecord) -> None:
        line = (self.format(record) + "\n").encode()
        try:
            descriptor = self._current()
            if os.fstat(descriptor).st_size + len(line) > self._max_bytes:
                self._rotate()
                descriptor = self._current()
            if os.write(descriptor, line) < len(line):
                metrics.count("cascade_log_lines_dropped_total")  # the disk is full: the line is torn
        except OSError:
            metrics.count("cascade_log_lines_dropped_total")

    def close(self) -> None:
        self._let_go()
        super().close()

    def _current(self) -> int:
        """The file of that name, which another process may have renamed since the last line."""
        if self._descriptor is not None:
            mine = os.fstat(self._descriptor)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(mine, os.stat(self._path)):
                    return self._descriptor
            self._let_go()
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._descriptor = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        return self._descriptor

    def _rotate(self) -> None:
        lock = os.open(self._path.with_name(self._path.name + ".lock"), os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if os.fstat(self._current()).st_size < self._max_bytes // 2:
                return  # another process was first
            for number in range(self._num_files - 1, 0, -1):
                younger = self._numbered(number - 1)
                with contextlib.suppress(FileNotFoundError):
                    os.replace(younger, self._numbered(number))
            if self._num_files == 1:
                self._path.unlink(missing_ok=True)
        finally:
            os.close(lock)

    def _numbered(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}") if number else self._path

    def _let_go(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None
