"""Guard: a part that may be slow or gone, behind a time limit and a circuit breaker.

Errors: StageError; below it StageFailed (it raised an error), StageTimeout (no answer in time) and StageGone (not
asked at all).

Only `time.monotonic` is read: a step of the wall clock changes nothing.
"""

from __future__ import annotations

import logging
import math
import time
from collections import deque
from collections.abc import Callable
from queue import SimpleQueue
from statistics import median_low
from threading import Lock, Thread
from typing import Any, NoReturn, TypeVar

from ensemble.deadline import DeadlineConfig
from ensemble.request import RequestError
from ensemble.serving_metrics import metrics
from features.errors import CascadeError

T = TypeVar("T")
log = logging.getLogger(__name__)

_NUM_RECENT = 31
_NUM_TO_JUDGE = 8
"""Calls before their usual time is believed: the first ones warm up."""


class StageError(CascadeError):
    """A part of the request path gave no answer; the reply is made without it."""


class StageFailed(StageError):  # noqa: N818  (a state, as in HTTP 502)
    """The part raised an error, which is this one's cause and stands in the log."""


class StageTimeout(StageError):  # noqa: N818  (a state, as in HTTP 504)
    """The part was asked and did not answer in time, or would not have."""


class StageGone(StageError):  # noqa: N818  (a state, as in HTTP 503)
    """The part was not asked: it failed again and again, or still hangs in an earlier call."""


def guard_of(name: str, limit_ms: float, config: DeadlineConfig, prepare: Callable[[], object] | None = None) -> Guard:
    """A part's guard, as serving is configured."""
    return Guard(name, limit_ms / 1e3, config.num_failures, config.cool_down_seconds, prepare=prepare)


class Guard:
    """Runs a part's calls one at a time, on a thread of its own where there is a deadline.

    The breaker is closed at first. After `num_failures` failures in a row it opens, and nobody waits for the part
    any more; when it has cooled down, one call is let through, which closes it or opens it anew. A call that outlasts
    the part's own limit is a failure; one that only an impatient caller did not wait for is not. While a call hangs
    the part counts as gone, so that there is never more than one thread.

    Args:
        name: of the part, for messages and metrics.
        limit_seconds: what the part may take, however patient the caller is.
        num_failures: failures in a row that open the breaker.
        cool_down_seconds: how long it stays open.
        prepare: called once on the part's thread, before its first call.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        limit_seconds: float,
        num_failures: int = 5,
        cool_down_seconds: float = 2.0,
        *,
        prepare: Callable[[], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._limit_seconds = limit_seconds
        self._num_failures = num_failures
        self._cool_down_seconds = cool_down_seconds
        self._prepare = prepare
        self._clock = clock
        self._turn = Lock()
        self._calls: SimpleQueue[_Call] | None = None
        self._left_behind: _Call | None = None
        self._failed_in_a_row = 0
        self._opened_at: float | None = None
        self._recent_seconds: deque[float] = deque(maxlen=_NUM_RECENT)

    def call(self, function: Callable[..., T], *arguments: Any, within_seconds: float = math.inf) -> T:
        """What the function returns.

        Args:
            within_seconds: until the caller's deadline. inf for none: then the function runs on the caller's own
                thread, as long as it takes.
        Raises: StageFailed; StageTimeout; StageGone; RequestError as it came.
        """
        patience = min(self._limit_seconds, within_seconds)
        ends = self._clock() + patience
        if not self._turn.acquire(timeout=max(patience, 0)):
            self._trouble("slow", f"was busy for {patience * 1e3:.0f} ms with another caller", StageTimeout)
        try:
            self._admit(within_seconds, ends)
            call = _Call(function, arguments, self._clock)
            if within_seconds == math.inf:
                call.run()
            else:
                self._thread().put(call)
                if not call.done.acquire(timeout=max(ends - self._clock(), 0)):
                    self._left_behind = call
                    if patience >= self._limit_seconds:
                        self._failed()
                    self._trouble("slow", f"gave no answer within {patience * 1e3:.0f} ms", StageTimeout)
            return self._result(call)
        finally:
            self._turn.release()

    def _admit(self, within_seconds: float, ends: float) -> None:
        """Returns if the part may be asked.

        Raises: StageTimeout; StageGone.
        """
        if (left := self._left_behind) is not None:
            if left.done.locked() and self._clock() - left.began > self._limit_seconds:
                self._trouble("gone", "still hangs in an earlier call", StageGone)
            if not left.done.acquire(timeout=max(ends - self._clock(), 0)):  # a caller before was less patient
                self._trouble("slow", "was busy with an earlier call", StageTimeout)
            self._recent_seconds.append(left.seconds)
            self._left_behind = None
        if self._opened_at is not None and self._clock() - self._opened_at < self._cool_down_seconds:
            self._trouble("gone", f"failed {self._failed_in_a_row} times in a row", StageGone)
        if len(self._recent_seconds) >= _NUM_TO_JUDGE and within_seconds < median_low(self._recent_seconds):
            # Each counts as a call that took no time: a part that was slow once is asked again after some of them.
            self._recent_seconds.append(0.0)
            self._trouble("skipped", f"needs more than the {within_seconds * 1e3:.1f} ms that are left", StageTimeout)

    def _result(self, call: _Call) -> Any:
        self._recent_seconds.append(call.seconds)
        if call.error is None or isinstance(call.error, RequestError):  # the caller's fault
            self._failed_in_a_row, self._opened_at = 0, None
        else:
            log.error("the %s failed", self.name, exc_info=call.error)
            self._failed()
            self._trouble("failed", f"failed: {call.error!r}", StageFailed, call.error)
        if call.error is not None:
            raise call.error
        return call.result

    def _failed(self) -> None:
        self._failed_in_a_row += 1
        if self._failed_in_a_row >= self._num_failures:
            self._opened_at = self._clock()
            log.error(
                "the %s failed %d times in a row; replies are made without it for %g s, then one request tries it",
                self.name,
                self._failed_in_a_row,
                self._cool_down_seconds,
            )

    def _trouble(self, kind: str, what: str, error: type[StageError], cause: BaseException | None = None) -> NoReturn:
        metrics.count("cascade_part_troubles_total", part=self.name, trouble=kind)
        raise error(f"the {self.name} {what}; the reply is made without it") from cause

    def _thread(self) -> SimpleQueue[_Call]:
        if self._calls is None:
            self._calls = SimpleQueue()
            # A daemon: a call that hangs must not keep the process from ending.
            Thread(target=_run_all, args=(self._calls, self._prepare), name=f"guarded {self.name}", daemon=True).start()
        return self._calls


class _Call:
    """A call on its way: whoever takes it runs it, and `done` is free when it has ended."""

    __slots__ = ("arguments", "began", "clock", "done", "error", "function", "result", "seconds")

    def __init__(self, function: Callable[..., Any], arguments: tuple[Any, ...], clock: Callable[[], float]) -> None:
        self.function, self.arguments, self.clock = function, arguments, clock
        self.began = clock()
        self.seconds = 0.0
        self.result: Any = None
        self.error: BaseException | None = None
        self.done = Lock()
        self.done.acquire()

    def run(self) -> None:
        try:
            self.result = self.function(*self.arguments)
        except BaseException as error:  # reaches the caller, on its thread
            self.error = error
        self.seconds = self.clock() - self.began
        self.done.release()


def _run_all(calls: SimpleQueue[_Call], prepare: Callable[[], object] | None) -> None:
    if prepare:
        prepare()
    while True:
        calls.get().run()
