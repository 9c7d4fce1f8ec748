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
from dataclasses import dataclass, field
from statistics import median_low
from threading import Lock
from typing import Any, NoReturn, TypeVar

from ensemble.deadline import DeadlineConfig
from ensemble.request import RequestError
from ensemble.serving_metrics import metrics
from ensemble.watch import LeftBehind, turn_of_this_thread
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


def guard_of(name: str, limit_ms: float, config: DeadlineConfig) -> Guard:
    """A part's guard, as serving is configured."""
    return Guard(name, limit_ms / 1e3, config.num_failures, config.cool_down_seconds)


class Guard:
    """Makes a part's calls one at a time. A `Watcher` holds them to their time; where nobody watches, or there is no
    deadline, they take as long as they take.

    The breaker is closed at first. After `num_failures` failures in a row it opens, and nobody waits for the part
    any more; when it has cooled down, one call is let through, which closes it or opens it anew. A call that outlasts
    the part's own limit is a failure; one that only an impatient caller did not wait for is not. While a call hangs
    the part counts as gone, so that it never holds more than one thread.

    Args:
        name: of the part, for messages and metrics.
        limit_seconds: what the part may take, however patient the caller is.
        num_failures: failures in a row that open the breaker.
        cool_down_seconds: how long it stays open.
        clock: seconds that never go back.
    """

    def __init__(
        self,
        name: str,
        limit_seconds: float,
        num_failures: int = 5,
        cool_down_seconds: float = 2.0,
        *,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.name = name
        self._limit_seconds = limit_seconds
        self._num_failures = num_failures
        self._cool_down_seconds = cool_down_seconds
        self._clock = clock
        self._turn = Lock()
        self._left_behind: GuardedCall | None = None
        self._failed_in_a_row = 0
        self._opened_at: float | None = None
        self._recent_seconds: deque[float] = deque(maxlen=_NUM_RECENT)

    def call(self, function: Callable[..., T], *arguments: Any, within_seconds: float = math.inf) -> T:
        """What the function returns.

        Args:
            within_seconds: until the caller's deadline; inf for none.
        Raises: StageFailed; StageTimeout; StageGone; RequestError as it came.
        """
        watched = turn_of_this_thread()
        if watched and (excuse := watched.excuses.get(self)):
            raise excuse
        patience = min(self._limit_seconds, within_seconds)
        call = GuardedCall(self, function, arguments, self._clock, patience)
        if not self._turn.acquire(timeout=max(patience, 0)):
            self._trouble("slow", f"was busy for {patience * 1e3:.0f} ms with another caller", StageTimeout)
        is_left = False
        try:
            self._admit(within_seconds, call.ends)
            if watched and within_seconds < math.inf:
                watched.make(call)
            else:
                call.run()
            return self._result(call)
        except LeftBehind:
            is_left = True
            raise
        finally:
            if not is_left:  # else it is somebody else's turn already
                self._turn.release()

    def leave_behind(self, call: GuardedCall) -> StageError:
        """Go on without waiting for this call, which is the part's latest; the error stands for its answer."""
        self._left_behind = call
        if call.patience >= self._limit_seconds:
            self._failed()
        self._turn.release()
        return self._counted("slow", f"gave no answer within {call.patience * 1e3:.0f} ms", StageTimeout)

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
        if within_seconds <= 0:
            self._trouble("skipped", "would have begun after the deadline", StageTimeout)
        if self._opened_at is not None and self._clock() - self._opened_at < self._cool_down_seconds:
            self._trouble("gone", f"failed {self._failed_in_a_row} times in a row", StageGone)
        if len(self._recent_seconds) >= _NUM_TO_JUDGE and within_seconds < median_low(self._recent_seconds):
            # Each counts as a call that took no time: a part that was slow once is asked again after some of them.
            self._recent_seconds.append(0.0)
            self._trouble("skipped", f"needs more than the {within_seconds * 1e3:.1f} ms that are left", StageTimeout)

    def _result(self, call: GuardedCall) -> Any:
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
        raise self._counted(kind, what, error) from cause

    def _counted(self, kind: str, what: str, error: type[StageError]) -> StageError:
        metrics.count("cascade_part_troubles_total", part=self.name, trouble=kind)
        return error(f"the {self.name} {what}; the reply is made without it")


@dataclass(slots=True, eq=False)
class GuardedCall:
    """A call of a guarded part."""

    guard: Guard
    function: Callable[..., Any]
    arguments: tuple[Any, ...]
    clock: Callable[[], float]
    patience: float
    """Seconds after which the caller goes on without it."""
    began: float = field(init=False)
    ends: float = field(init=False)
    seconds: float = 0.0
    result: Any = None
    error: BaseException | None = None
    done: Any = field(default_factory=Lock)
    """Free when the call has ended."""

    def __post_init__(self) -> None:
        self.began = self.clock()
        self.ends = self.began + self.patience
        self.done.acquire()

    def run(self) -> None:
        try:
            self.result = self.function(*self.arguments)
        except BaseException as error:  # reaches the caller
            self.error = error
        self.seconds = self.clock() - self.began
        self.done.release()
