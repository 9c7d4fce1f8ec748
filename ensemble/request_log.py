"""The request log: a sample of the requests, written by a thread of its own.

The request path hands over references to arrays that exist anyway; nothing is copied, converted or written there. A
disk that is slow or full costs log rows, which are counted, and never a request.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Self

from ensemble.request import Reply, Request
from ensemble.request_log_config import RequestLogConfig
from ensemble.serving_metrics import metrics
from ensemble.trace import Trace

if TYPE_CHECKING:
    from ensemble.request_rows import KeptRows, LoggedRelease

ROWS_PER_WRITE = 256
"""Rows that are written together, as a row group of the file."""

_GATHER_SECONDS = 0.05  # runs pin the arrays of everybody who was asked for together, so not for long
_BREATH_SECONDS = 2e-4
_STOP_SECONDS = 5.0
_SECONDS_BETWEEN_COMPLAINTS = 60.0
_log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class SampledRequest:
    """A caller's part of a run."""

    id: str
    arm: str
    """Of the experiment that sent it; empty for none."""
    rows: slice
    """Its users among those of the run."""


@dataclass(frozen=True, eq=False)
class SampledRun:
    """One run of the request path, and which of its requests are to be logged."""

    sampled: list[SampledRequest]
    num_requests: int
    received: float
    """Unix seconds."""
    seconds: float
    request: Request
    """Of all users of the run, as the other fields."""
    reply: Reply
    trace: Trace


class RequestLog:
    """Takes what runs leave behind, until it is closed.

    Args:
        config: what is logged and where.
        serve_folder: where a relative path starts.
        release: what answers the requests.
    """

    def __init__(self, config: RequestLogConfig, serve_folder: Path, release: LoggedRelease) -> None:
        from ensemble.request_rows import SCHEMA
        from ensemble.rotated_parquet import RotatedParquet

        self._config = config
        self._release = release
        self._files = RotatedParquet(
            serve_folder / config.folder,
            SCHEMA.with_metadata((SCHEMA.metadata or {}) | release.file_metadata()),
            config.rows_per_file,
            config.seconds_per_file,
            config.max_bytes,
        )
        self._runs: deque[SampledRun] = deque()
        self._num_waiting = 0
        self._lock = Lock()
        self._has_runs, self._stopped = Event(), Event()
        self._complained = -_SECONDS_BETWEEN_COMPLAINTS
        self._kept: list[KeptRows] = []
        self._num_kept = 0
        self._thread = Thread(target=self._write_until_stopped, name="request log", daemon=True)
        self._thread.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def is_sampled(self, request_id: str) -> bool:
        """Whether a request is logged: the same answer for the same id, whichever process it comes to."""
        number = int.from_bytes(blake2b(request_id.encode(errors="surrogatepass"), digest_size=8).digest())
        return number < self._config.sample * 2.0**64

    def add(self, run: SampledRun) -> None:
        """Hand over a run; it must not be changed afterwards. Never waits and never raises."""
        size = len(run.request)
        with self._lock:
            # A run is held whole until it is converted, so everybody in it counts.
            has_room = self._num_waiting + size <= self._config.queue_rows or not self._runs
            if has_room:
                self._num_waiting += size
                self._runs.append(run)
        if has_room:
            self._has_runs.set()
        else:
            metrics.count("cascade_request_log_dropped_rows_total", _num_rows(run.sampled), reason="queue")

    def close(self) -> None:
        """Write what waits and end the thread."""
        self._stopped.set()
        self._has_runs.set()
        self._thread.join(_STOP_SECONDS)

    def _write_until_stopped(self) -> None:
        is_last = False
        while not is_last:
            self._has_runs.wait(self._files.seconds_left() if self._num_kept or self._files.num_rows else None)
            is_last = self._stopped.wait(_GATHER_SECONDS)
            self._has_runs.clear()
            while self._runs:
                self._keep(self._runs[0])
                with self._lock:
                    self._num_waiting -= len(self._runs.popleft().request)
                if self._num_kept >= ROWS_PER_WRITE:
                    self._write()
                if self._files.is_full:
                    self._seal()
                time.sleep(_BREATH_SECONDS)  # requests get the interpreter between any two
            if is_last or not self._files.seconds_left():
                self._write()
                self._seal()

    def _keep(self, run: SampledRun) -> None:
        from ensemble.request_rows import kept

        try:
            self._kept.append(kept(run, self._release))
            self._files.begin()
            self._num_kept += _num_rows(run.sampled)
        except Exception:  # whatever a run left behind, the thread must live
            self._drop(_num_rows(run.sampled), "error", "rows of the request log cannot be made")

    def _write(self) -> None:
        from ensemble.request_rows import batches_of

        all_kept, num_rows, self._kept, self._num_kept = self._kept, self._num_kept, [], 0
        if not all_kept:
            return
        try:
            batches = list(batches_of(all_kept, self._release))
        except Exception:
            self._drop(num_rows, "error", "rows of the request log cannot be made")
            return
        try:
            self._files.write(batches)
        except Exception:
            self._drop(self._files.discard() + num_rows, "disk", "the request log cannot be written")

    def _seal(self) -> None:
        num_rows = self._files.num_rows
        try:
            self._files.seal()
            metrics.count("cascade_request_log_rows_total", num_rows)
        except Exception:
            self._drop(self._files.discard(), "disk", "a file of the request log cannot be completed")

    def _drop(self, num_rows: int, reason: str, what: str) -> None:
        """Count what is lost; complain only now and then. Called where an exception is being handled."""
        metrics.count("cascade_request_log_dropped_rows_total", num_rows, reason=reason)
        if (now := time.monotonic()) - self._complained >= _SECONDS_BETWEEN_COMPLAINTS:
            self._complained = now
            _log.exception("%s; %d rows are lost, and requests go on", what, num_rows)


def _num_rows(sampled: Sequence[SampledRequest]) -> int:
    return sum(one.rows.stop - one.rows.start for one in sampled)
