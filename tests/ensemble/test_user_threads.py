"""Users of a call divided among threads."""

import threading

import pytest

from ensemble import user_threads
from ensemble.user_threads import MIN_USERS, each_part


@pytest.mark.parametrize("num_users", [0, 1, MIN_USERS, 2 * MIN_USERS - 1, 2 * MIN_USERS, 64, 65])
@pytest.mark.parametrize("num_threads", [1, 2, 3])
def test_every_user_is_worked_on_once(monkeypatch, num_users, num_threads):
    monkeypatch.setattr(user_threads, "num_threads", lambda: num_threads)
    parts, lock = [], threading.Lock()

    def work(part: slice) -> None:
        with lock:
            parts.append(part)

    each_part(num_users, work)
    assert sorted(user for part in parts for user in range(part.start, part.stop)) == list(range(num_users))
    assert len(parts) == max(1, min(num_threads, num_users // MIN_USERS))


@pytest.mark.parametrize("failing", [0, 32])
def test_a_part_that_fails_fails_the_call_when_all_have_ended(monkeypatch, failing):
    monkeypatch.setattr(user_threads, "num_threads", lambda: 2)
    ended = []

    def work(part: slice) -> None:
        if part.start == failing:
            raise RuntimeError(f"part {part.start}")
        ended.append(part.start)

    with pytest.raises(RuntimeError, match=f"part {failing}"):
        each_part(64, work)
    assert ended == [32 - failing]
