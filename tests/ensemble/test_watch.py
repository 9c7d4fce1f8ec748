"""Runs that are taken over: each part runs once, the others go on, and nobody hears of what was left behind."""

import logging
import threading
import time

import pytest

from ensemble.guard import Guard, StageTimeout
from ensemble.json_log import _with_request_ids, log_lines_of
from ensemble.watch import LeftBehind, Watcher, turn_of_this_thread

LIMIT = 0.05


class Steps:
    """A run of guarded parts that goes on where it was."""

    def __init__(self, *parts) -> None:
        self.parts = [(Guard(f"part {number}", LIMIT), part) for number, part in enumerate(parts)]
        self.came: list[object] = []
        self.threads: list[int] = []

    def finish(self):
        while len(self.came) < len(self.parts):
            guard, part = self.parts[len(self.came)]
            try:
                came = guard.call(part, within_seconds=1)
            except StageTimeout:
                came = "left out"
            self.came.append(came)
            self.threads.append(threading.get_ident())
        return self.came


@pytest.fixture
def watcher():
    return Watcher(LIMIT)


def run(watcher, work):
    return watcher.run(work, time.monotonic() + 1)


def test_a_run_stays_on_one_thread_which_is_kept_for_the_next(watcher):
    first, second = Steps(*[int] * 4), Steps(*[int] * 4)
    assert run(watcher, first.finish) == run(watcher, second.finish) == [0] * 4
    assert len({*first.threads, *second.threads}) == 1 and threading.get_ident() not in first.threads


def test_a_part_that_hangs_is_left_out_and_what_comes_of_it_later_changes_nothing(watcher):
    release, num_made = threading.Event(), []

    def hang():
        num_made.append(1)
        release.wait()
        return "too late"

    steps = Steps(lambda: "before", hang, lambda: "after", hang, lambda: "last")
    began = time.monotonic()
    assert run(watcher, steps.finish) == ["before", "left out", "after", "left out", "last"]
    assert 2 * LIMIT <= time.monotonic() - began < 2 * LIMIT + 0.05
    release.set()
    time.sleep(0.05)
    assert steps.came == ["before", "left out", "after", "left out", "last"] and len(num_made) == 2
    assert len(set(steps.threads)) == 3
    assert run(watcher, Steps(int).finish) == [0]


def test_what_a_run_raises_reaches_the_caller(watcher):
    def fail():
        raise KeyError("broken")

    for _ in range(3):
        with pytest.raises(KeyError, match="broken"):
            run(watcher, fail)
    assert run(watcher, lambda: 7) == 7


def test_threads_that_were_left_behind_end(watcher):
    release = threading.Event()
    before = threading.active_count()
    run(watcher, Steps(release.wait).finish)
    assert threading.active_count() == before + 2
    release.set()
    deadline = time.monotonic() + 5
    while threading.active_count() > before + 1 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() == before + 1


def test_runs_side_by_side_have_threads_of_their_own(watcher):
    barrier = threading.Barrier(4, timeout=5)
    callers = [threading.Thread(target=run, args=(watcher, barrier.wait)) for _ in range(4)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert not barrier.broken


def test_each_thread_is_prepared_once():
    prepared = []
    watcher = Watcher(LIMIT, prepare=lambda: prepared.append(threading.get_ident()))
    assert [run(watcher, threading.get_ident) for _ in range(2)] == prepared * 2 and len(prepared) == 1


def test_log_lines_of_a_run_carry_its_ids(watcher):
    record = logging.makeLogRecord({})
    with log_lines_of(["one", "two"]):
        run(watcher, lambda: _with_request_ids(record))
    assert record.__dict__["request_ids"] == ("one", "two")


def test_nobody_watches_elsewhere(watcher):
    assert turn_of_this_thread() is None and run(watcher, turn_of_this_thread) is not None
    assert not issubclass(LeftBehind, Exception)
