import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.history import NO_ITEM, SECONDS_PER_DAY, EventLog
from features.history_gaps import LONGEST, NO_GAP, NUM_GAPS, gaps_to_next

NUM_USERS, NUM_ITEMS, START = 4, 5, 1_700_000_000
DAY = SECONDS_PER_DAY
# Few distinct moments, so that many events share a second; some a long way off.
MOMENT = st.sampled_from([START + offset for offset in (0, 1, 2, DAY, DAY + 1, 9 * DAY, 400 * DAY)]) | st.integers(
    0, 2**33
)
EVENTS = st.lists(st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, NUM_ITEMS - 1), MOMENT), max_size=40)
QUESTIONS = st.lists(st.tuples(st.integers(0, NUM_USERS - 1), st.integers(0, NUM_ITEMS - 1), MOMENT), max_size=10)
Rows = list[tuple[int, int, int]]


def columns(rows: Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    user, item, time = np.array(rows, dtype=np.int64).reshape(-1, 3).T
    return user, item, time


def event_log(events: Rows) -> EventLog:
    return EventLog(*columns(events))


@settings(deadline=None)  # the first call compiles the loops
@given(EVENTS, QUESTIONS, st.integers(1, 6))
def test_user_state_equals_a_walk_over_the_log(events: Rows, questions: Rows, length: int) -> None:
    user, _, time = columns(questions)
    state = event_log(events).user_state(user, time, length)
    assert state.history_QN.shape == (len(questions), length)
    for row, (user_row, _, moment) in enumerate(questions):
        past = sorted((at, item) for owner, item, at in events if owner == user_row and at < moment)
        newest_first = [item for _, item in reversed(past)][:length]
        assert state.history_QN[row].tolist() == newest_first + [NO_ITEM] * (length - len(newest_first))
        assert state.num_events[row] == len(past)
        assert state.last_timestamp[row] == (past[-1][0] if past else -1)
        assert state.recency_days[row] == ((moment - past[-1][0]) / DAY if past else 0)
        moments = [at for at, _ in reversed(past)]
        gaps = [newer - at for newer, at in zip(moments[:1] + moments, moments, strict=False)][:length]
        assert state.gap_QN[row].tolist() == [category(gap) for gap in gaps] + [NO_GAP] * (length - len(gaps))


def category(seconds: int) -> int:
    """The formula of the gaps."""
    return 1 + min(math.floor(math.log2(1 + seconds / 60)), LONGEST)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, 1), (59, 1), (60, 2), (179, 2), (180, 3), (3_600, 6), (DAY, 11), (365 * DAY, 20), (200 * 365 * DAY, 23)],
)
def test_a_gap_is_the_logarithm_of_its_minutes_and_the_longest_are_one(seconds: int, expected: int) -> None:
    asked = (np.array([0]), np.array([START + seconds + 1]), 3)
    found = event_log([(0, 1, START), (0, 2, START + seconds)]).user_state(*asked).gap_QN
    assert found.tolist() == [[1, expected, NO_GAP]]
    assert category(seconds) == expected < NUM_GAPS


def test_gaps_are_those_of_the_user_alone_and_not_of_the_moment() -> None:
    log = event_log([(0, 1, START), (1, 1, START + 30), (0, 2, START + DAY), (1, 2, START + 9 * DAY)])
    user = np.array([0, 0, 0, 1, 2])
    asked = START + np.array([DAY, DAY + 1, 400 * DAY, 400 * DAY, 400 * DAY])
    expected = [[1, 0, 0], [1, 11, 0], [1, 11, 0], [1, category(9 * DAY - 30), 0], [0, 0, 0]]
    assert log.user_state(user, asked, 3).gap_QN.tolist() == expected


@pytest.mark.parametrize("num_events", [0, 1, 2**16 - 1, 2**16, 2**16 + 1, 2**17 + 1])
def test_gaps_of_many_events_equal_those_of_all_at_once(num_events: int) -> None:
    moment = np.cumsum(np.random.default_rng(0).integers(0, 10**9, num_events) >> np.arange(num_events) % 30)
    found = gaps_to_next(moment)
    assert found[:-1].tolist() == [category(seconds) for seconds in np.diff(moment).tolist()]
    assert found[-1:].tolist() == [1] * min(num_events, 1)


@given(EVENTS, QUESTIONS, st.sampled_from([0.5, 1.0, 28.0, 36_500.0]))
def test_item_state_equals_a_walk_over_the_log(events: Rows, questions: Rows, window_days: float) -> None:
    _, item, time = columns(questions)
    state = event_log(events).item_state(item, time, window_days)
    for row, (_, item_row, moment) in enumerate(questions):
        past = [at for _, other, at in events if other == item_row and at < moment]
        assert state.num_events[row] == len(past)
        assert state.num_recent_events[row] == sum(at >= moment - int(window_days * DAY) for at in past)
        assert state.age_days[row] == ((moment - min(past)) / DAY if past else 0)


@given(EVENTS, QUESTIONS)
def test_items_before_equals_a_walk_over_the_log(events: Rows, questions: Rows) -> None:
    user, _, time = columns(questions)
    question, found = event_log(events).items_before(user, time)
    expected = [
        (row, item)
        for row, (user_row, _, moment) in enumerate(questions)
        for item in sorted({item for owner, item, at in events if owner == user_row and at < moment})
    ]
    assert list(zip(question.tolist(), found.tolist(), strict=True)) == expected


@settings(deadline=None)
@given(EVENTS, st.randoms())
def test_the_order_of_the_events_does_not_matter(events: Rows, random) -> None:
    shuffled = random.sample(events, len(events))
    user, _, time = columns([(user, 0, START + DAY) for user in range(NUM_USERS)])
    states = [event_log(rows).user_state(user, time, 5).history_QN for rows in (events, shuffled)]
    assert np.array_equal(*states)


def test_events_at_the_very_second_do_not_count() -> None:
    log = event_log([(0, 1, START), (0, 2, START), (1, 2, START)])
    user = log.user_state(np.array([0, 0]), np.array([START, START + 1]), 3)
    assert user.num_events.tolist() == [0, 2]
    assert user.history_QN.tolist() == [[NO_ITEM] * 3, [2, 1, NO_ITEM]]
    assert log.item_state(np.array([2, 2]), np.array([START, START + 1]), 1).num_events.tolist() == [0, 2]


def test_users_and_items_without_events_have_an_empty_state_even_beyond_the_known_rows() -> None:
    log = event_log([(1, 1, START)])
    state = log.user_state(np.array([0, 2, 10**6]), np.full(3, START + 9), 2)
    assert state.num_events.tolist() == [0, 0, 0] and (state.history_QN == NO_ITEM).all()
    assert log.item_state(np.array([0, 2, 10**6]), np.full(3, START + 9), 2).num_events.tolist() == [0, 0, 0]


def test_a_million_users_and_a_century_do_not_overflow() -> None:
    rows = [(10**8, 10**8, 0), (10**8, 7, 7 * 10**9), (10**8 - 1, 3, 7 * 10**9)]
    state = event_log(rows).user_state(np.array([10**8, 10**8 - 1]), np.full(2, 2**62), 3)
    assert state.history_QN.tolist() == [[7, 10**8, NO_ITEM], [3, NO_ITEM, NO_ITEM]]
    question, item = event_log(rows).items_before(np.array([10**8, 10**8 - 1]), np.full(2, 2**62))
    assert (question.tolist(), item.tolist()) == ([0, 0, 1], [7, 10**8, 3])


def test_from_events_keeps_what_happened_before_a_moment() -> None:
    events = pa.table({"user_row": [0, 0], "item_row": [1, 2], "timestamp": [START, START + 5]})
    asked = (np.array([0]), np.array([START + 9]), 2)
    assert EventLog.from_events(events).user_state(*asked).history_QN.tolist() == [[2, 1]]
    assert EventLog.from_events(events, before=START + 5).user_state(*asked).history_QN.tolist() == [[1, NO_ITEM]]
