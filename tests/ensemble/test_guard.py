"""The guard: what it lets through, when it stops asking, and what a hang costs those who come after it."""

import threading
import time
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, rule

from ensemble.deadline import seconds_left
from ensemble.guard import Guard, StageError, StageFailed, StageGone, StageTimeout
from ensemble.request import RequestError
from ensemble.serving_metrics import metrics
from ensemble.watch import Watcher

LIMIT, NUM_FAILURES, COOL_DOWN = 0.08, 3, 10.0


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


def num_troubles(part: str, trouble: str) -> float:
    labels = (("part", part), ("trouble", trouble))
    counted = {series.labels: number for series, number in metrics.totals().items() if "troubles" in series.name}
    return counted.get(labels, 0)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def guard(clock) -> Guard:
    return Guard("part", LIMIT, NUM_FAILURES, COOL_DOWN, clock=clock)


def watched_call(guard: Guard, function, *arguments, within_seconds: float):
    """One guarded call as the whole of a run that is watched."""
    work = partial(guard.call, function, *arguments, within_seconds=within_seconds)
    return Watcher(LIMIT).run(work, time.monotonic() + within_seconds)


def fail() -> None:
    raise KeyError("broken")


def fail_often(guard: Guard, within_seconds: float = 1.0) -> None:
    for _ in range(NUM_FAILURES):
        with pytest.raises(StageFailed):
            guard.call(fail, within_seconds=within_seconds)


@pytest.mark.parametrize("within_seconds", [np.inf, 1.0])
def test_what_the_part_returns_and_raises_reaches_the_caller(guard, within_seconds, caplog):
    assert guard.call(divmod, 7, 3, within_seconds=within_seconds) == (2, 1)
    with pytest.raises(StageFailed, match="broken"):
        guard.call(fail, within_seconds=within_seconds)
    assert 'raise KeyError("broken")' in caplog.text


def test_without_a_watcher_the_part_runs_on_the_callers_thread_and_takes_as_long_as_it_takes(guard):
    assert guard.call(threading.get_ident, within_seconds=1) == threading.get_ident()
    assert Guard("part", 0.001).call(lambda: time.sleep(0.01) or 7, within_seconds=0.002) == 7


@pytest.mark.parametrize("within_seconds", [np.inf, 1.0])
def test_the_breaker_opens_after_failures_in_a_row_and_one_call_closes_it_when_it_has_cooled_down(
    guard, clock, within_seconds
):
    fail_often(guard, within_seconds)
    asked = []
    with pytest.raises(StageGone, match="part failed 3 times in a row"):
        guard.call(asked.append, 1, within_seconds=within_seconds)
    clock.now += COOL_DOWN - 0.001
    with pytest.raises(StageGone):
        guard.call(asked.append, 2, within_seconds=within_seconds)
    clock.now += 0.002
    with pytest.raises(StageFailed):  # the probe fails: open again at once
        guard.call(fail, within_seconds=within_seconds)
    with pytest.raises(StageGone):
        guard.call(asked.append, 3, within_seconds=within_seconds)
    clock.now += COOL_DOWN
    guard.call(asked.append, 4, within_seconds=within_seconds)
    assert asked == [4]
    for _ in range(NUM_FAILURES - 1):  # closed, with nothing held against it
        with pytest.raises(StageFailed):
            guard.call(fail, within_seconds=within_seconds)
    guard.call(asked.append, 5, within_seconds=within_seconds)


def test_a_refused_request_is_no_failure_of_the_part(guard):
    def refuse():
        raise RequestError("k must be 1..1000")

    for _ in range(NUM_FAILURES + 1):
        with pytest.raises(RequestError):
            guard.call(refuse, within_seconds=1)


def test_a_caller_waits_no_longer_than_its_deadline_and_never_longer_than_the_parts_limit():
    release = threading.Event()
    for within_seconds, expected in ((0.02, 0.02), (5.0, LIMIT)):
        guard = Guard("part", LIMIT)
        began = time.monotonic()
        with pytest.raises(StageTimeout, match="no answer"):
            watched_call(guard, release.wait, within_seconds=within_seconds)
        assert expected <= time.monotonic() - began < expected + 0.05
    release.set()


def test_a_hanging_part_is_gone_at_once_for_everybody_with_one_thread_and_comes_back():
    guard, release, watcher = Guard("part", LIMIT, NUM_FAILURES, COOL_DOWN), threading.Event(), Watcher(LIMIT)

    def call(function, within_seconds):
        return watcher.run(partial(guard.call, function, within_seconds=within_seconds), time.monotonic() + 1)

    with pytest.raises(StageTimeout):
        call(release.wait, 1)
    num_threads = threading.active_count()  # the one that hangs, and the one that goes on in its place
    began = time.monotonic()
    for within_seconds in [1.0, np.inf] * 50:
        with pytest.raises(StageGone, match="hangs"):
            call(int, within_seconds)
    assert time.monotonic() - began < LIMIT and threading.active_count() <= num_threads
    release.set()
    time.sleep(0.02)
    assert call(int, 1) == 0


def test_an_impatient_caller_takes_the_part_from_nobody():
    guard = Guard("part", 1.0, num_failures=1)
    with pytest.raises(StageTimeout):
        watched_call(guard, time.sleep, 0.1, within_seconds=0.02)
    began = time.monotonic()
    assert watched_call(guard, int, within_seconds=1.0) == 0  # waits for the call that was left behind
    assert 0.04 < time.monotonic() - began < 0.2


def test_nobody_begins_after_the_deadline(guard):
    with pytest.raises(StageTimeout, match="after the deadline"):
        watched_call(guard, pytest.fail, "asked", within_seconds=-0.001)


def test_calls_of_several_callers_never_overlap():
    guard, running, overlapped = Guard("part", 5.0), threading.Lock(), []

    def work():
        overlapped.append(not running.acquire(blocking=False))
        time.sleep(0.002)
        running.release()

    callers = [threading.Thread(target=guard.call, args=(work,), kwargs={"within_seconds": 5.0}) for _ in range(20)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert overlapped == [False] * 20


def test_a_part_that_needs_more_than_what_is_left_is_skipped_but_not_for_ever():
    guard = Guard("skipped part", 1.0)
    for _ in range(8):
        guard.call(time.sleep, 0.01, within_seconds=1)
    began = time.monotonic()
    with pytest.raises(StageTimeout, match=r"needs more than the 2\.0 ms"):
        guard.call(time.sleep, 0.01, within_seconds=0.002)
    assert time.monotonic() - began < 0.002
    for _ in range(30):
        try:
            guard.call(int, within_seconds=0.005)
            break
        except StageTimeout:
            pass
    else:
        pytest.fail("a part that was slow once is never asked again")
    assert 1 <= num_troubles("skipped part", "skipped") < 31


def test_a_step_of_the_wall_clock_changes_nothing(monkeypatch):
    guard = Guard("part", LIMIT, NUM_FAILURES, 0.05)
    fail_often(guard)
    for step in (1e9, -1e9):
        monkeypatch.setattr(time, "time", lambda step=step: 1.7e9 + step)
        with pytest.raises(StageGone):
            guard.call(int, within_seconds=1)
    time.sleep(0.06)
    assert guard.call(int, within_seconds=1) == 0


def test_the_first_deadline_rules_and_none_is_endless(monkeypatch):
    monkeypatch.setattr(time, "monotonic", lambda: 50.0)
    assert seconds_left(np.array([np.inf, 50.25, 60.0])) == 0.25
    assert seconds_left(np.full(3, np.inf)) == seconds_left(np.empty(0)) == np.inf


class Breaker(RuleBasedStateMachine):
    """The breaker against a model of it that is written as the definition reads."""

    def __init__(self) -> None:
        super().__init__()
        self.clock = Clock()
        self.guard = Guard("part", 1.0, NUM_FAILURES, COOL_DOWN, clock=self.clock)
        self.in_a_row, self.opened_at = 0, None

    @rule(seconds=st.sampled_from([0.5, 4.0, COOL_DOWN]))
    def pass_time(self, seconds):
        self.clock.now += seconds

    @rule(fails=st.booleans(), within_seconds=st.sampled_from([0.9, np.inf]))
    def call(self, fails, within_seconds):
        is_open = self.opened_at is not None and self.clock.now - self.opened_at < COOL_DOWN
        expected = StageGone if is_open else StageFailed if fails else None
        try:
            self.guard.call(fail if fails else int, within_seconds=within_seconds)
            raised = None
        except StageError as error:
            raised = type(error)
        assert raised is expected
        if not is_open:
            self.in_a_row = self.in_a_row + 1 if fails else 0
            if not fails:
                self.opened_at = None
            elif self.in_a_row >= NUM_FAILURES:
                self.opened_at = self.clock.now


TestBreaker = Breaker.TestCase
TestBreaker.settings = settings(max_examples=50, stateful_step_count=30, deadline=None)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_every_call_of_a_closed_breaker_is_made_once(outcomes):
    guard, made, came = Guard("part", 1.0, num_failures=100), [], []

    def part(number, fails):
        made.append(number)
        if fails:
            raise KeyError(number)
        return number

    for number, fails in enumerate(outcomes):
        try:
            came.append(guard.call(part, number, fails, within_seconds=1.0))
        except StageFailed as error:
            assert isinstance(error.__cause__, KeyError)  # noqa: PT017
            came.append(error.__cause__.args[0])
    assert made == came == list(range(len(outcomes)))
