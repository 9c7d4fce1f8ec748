"""Watcher: runs that can be taken over from a part that hangs.

A run goes on a thread of its own, from its first part to its last, while the caller's thread watches the clock: one
change of threads a run. Where a guarded part outlasts its time, the watcher leaves that thread behind and lets another
one go on with the same run, to which the part counts as too slow.
"""

from __future__ import annotations

import contextvars
import time
from collections.abc import Callable
from queue import SimpleQueue
from threading import Lock, Thread, local
from typing import TYPE_CHECKING, Any, Generic, TypeVar

if TYPE_CHECKING:
    from ensemble.guard import Guard, GuardedCall, StageError

T = TypeVar("T")
_of_thread = local()


class LeftBehind(BaseException):
    """Ends what a thread was doing for a run that goes on elsewhere; no part of the run may catch it."""


class Watcher:
    """Lets runs go on threads that are kept for the next one. Safe to use from several threads.

    Args:
        least_seconds: no guarded part's limit is shorter.
        prepare: called once on each thread, before its first run.
    """

    def __init__(self, least_seconds: float, prepare: Callable[[], object] | None = None) -> None:
        self._least_seconds = least_seconds
        self._prepare = prepare
        self._idle: list[_Worker] = []

    def run(self, work: Callable[[], T], deadline: float) -> T:
        """What `work` returns or raises.

        Args:
            work: called again after each part that was left behind; it must go on at the part that it had come to.
            deadline: seconds of `time.monotonic` at which the caller's patience ends, which guarded parts know.
        """
        excuses: dict[Guard, StageError] = {}
        while True:
            worker, turn = self._worker(), Turn(work, excuses)
            worker.turns.put(turn)
            overdue = self._overdue(turn, deadline)
            if overdue is None:
                self._idle.append(worker)
                return turn.outcome()
            excuses[overdue.guard] = overdue.guard.leave_behind(overdue)
            worker.turns.put(None)

    def _worker(self) -> _Worker:
        try:
            return self._idle.pop()
        except IndexError:
            return _Worker(self._prepare)

    def _overdue(self, turn: Turn[Any], deadline: float) -> GuardedCall | None:
        """The guarded call that has outlasted its time; None when the turn is over."""
        while True:
            now = time.monotonic()
            # No call that begins from now on can be overdue before one of these.
            wakes = min(now + self._least_seconds, deadline if deadline > now else turn.ends)
            if turn.done.acquire(timeout=max(min(wakes, turn.ends) - now, 0)):
                return None
            if overdue := turn.give_up(time.monotonic()):
                return overdue


class Turn(Generic[T]):
    """What a thread does for a run, until it is over or the thread is left behind."""

    def __init__(self, work: Callable[[], T], excuses: dict[Guard, StageError]) -> None:
        self.excuses = excuses
        """Of parts that were left behind in this run already."""
        self.done = Lock()
        """Free when the turn is over."""
        self.done.acquire()
        self._work = work
        self._context = contextvars.copy_context()  # log lines keep the ids of their requests
        self._lock = Lock()
        self._call: GuardedCall | None = None
        self._is_left = False
        self._result: Any = None
        self._error: BaseException | None = None

    @property
    def ends(self) -> float:
        """Seconds of `time.monotonic` until which the guarded part that runs now may take; inf where none runs."""
        call = self._call
        return float("inf") if call is None else call.ends

    def make(self, call: GuardedCall) -> None:
        """Make a guarded call on this thread. Raises: LeftBehind if the run did not wait for it."""
        self._call = call
        call.run()
        with self._lock:
            self._call = None
            if self._is_left:
                raise LeftBehind

    def give_up(self, now: float) -> GuardedCall | None:
        """Leave the thread behind if its guarded call is overdue, which is returned then."""
        with self._lock:
            if self._call is None or now < self._call.ends:
                return None
            self._is_left = True
            return self._call

    def take(self) -> None:
        """Work on this thread until the turn is over."""
        _of_thread.turn = self
        try:
            self._result = self._context.run(self._work)
        except BaseException as error:  # reaches the caller, on its thread
            self._error = error
        _of_thread.turn = None
        self.done.release()

    def outcome(self) -> T:
        if self._error is not None:
            raise self._error
        return self._result


def turn_of_this_thread() -> Turn[Any] | None:
    """The turn that this thread works on; None where nobody watches."""
    return getattr(_of_thread, "turn", None)


class _Worker:
    """A thread that takes turns, until it is told None."""

    def __init__(self, prepare: Callable[[], object] | None) -> None:
        self.turns: SimpleQueue[Turn[Any] | None] = SimpleQueue()
        # A daemon: a call that hangs must not keep the process from ending.
        Thread(target=self._take_all, args=(prepare,), name="run", daemon=True).start()

    def _take_all(self, prepare: Callable[[], object] | None) -> None:
        if prepare:
            prepare()
        while (turn := self.turns.get()) is not None:
            turn.take()
            del turn  # its columns, while this thread waits
