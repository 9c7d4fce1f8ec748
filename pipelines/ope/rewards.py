"""Rewards of what was shown: later events, joined with the slates, or a table that names them."""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from features.errors import CascadeError
from pipelines.event_files import file_events
from pipelines.ope.shown_slates import ShownSlates, padded

# B logged requests of a user  k places of a slate
KEY = ("request_id", "user_id", "item_id")


class RewardError(CascadeError, ValueError):
    """The rewards do not fit the log."""


class Slates(Protocol):
    """What was shown to whom, in the order of time."""

    @property
    def received_B(self) -> np.ndarray: ...
    @property
    def user_id(self) -> Sequence[str]: ...
    @property
    def slate_ids(self) -> Sequence[Sequence[str]]: ...


def rewards_of_events(shown: ShownSlates, file: Path, window_seconds: float, timestamp_unit: str = "s") -> np.ndarray:
    """[B, k] 1 where the user had an event with the item within the window after the request; else 0.

    An event counts for the last logged request before it that showed the item to the user, and once.

    Args:
        file: .parquet, .csv or JSON lines with user_id, item_id and timestamp.
    Raises: RewardError if no event fits; EventFileError for a row that is no event.
    """
    if not file.is_file():
        raise RewardError(
            f"{file}: there is no such file; --events names the interactions that came after the requests"
        )
    num_events = 0

    def events() -> Iterator[tuple[str, str, int]]:
        nonlocal num_events
        for user, item, moment, _ in file_events(file, timestamp_unit, ()):
            num_events += 1
            yield user, item, moment

    reward_Bk, num_joined = joined(shown, events(), window_seconds)
    if not num_joined:
        raise RewardError(
            f"{file}: none of its {num_events:,} events is of a user and an item that the log shows, at most "
            f"{window_seconds / 3_600:g} hours after a request ({_span(shown.received_B)}); check the files, "
            "--window-hours and --timestamp-unit"
        )
    return reward_Bk


def joined(shown: Slates, events: Iterable[tuple[str, str, int]], window_seconds: float) -> tuple[np.ndarray, int]:
    """[B, k] 1 where an event followed, as `rewards_of_events` has it; and how many events followed a slate.

    Args:
        events: user id, item id and Unix seconds of each.
    """
    reward_Bk = _nothing(shown)
    requests: dict[tuple[str, str], list[tuple[int, int, int]]] = defaultdict(list)  # by time, as the log is
    for row, (user, slate) in enumerate(zip(shown.user_id, shown.slate_ids, strict=True)):
        for place, item in enumerate(slate):
            requests[user, item].append((int(shown.received_B[row]), row, place))
    num_joined = 0
    for user, item, moment in events:
        before = requests.get((user, item), [])
        last = bisect_right(before, moment, key=lambda one: one[0]) - 1
        if last >= 0 and moment <= before[last][0] + window_seconds:
            reward_Bk[before[last][1:]] = 1
            num_joined += 1
    return reward_Bk, num_joined


def place_values(shown: ShownSlates, file: Path, name: str = "reward") -> np.ndarray:
    """[B, k] what a table with the columns request_id, user_id, item_id and `name` says; 0 for what it does not name.

    Raises: RewardError for a missing column, a value that is no number, or an item that was not shown.
    """
    import pandas as pd

    columns = [*KEY, name]
    if not file.is_file():
        raise RewardError(f"{file}: there is no such file; it must be a table with {', '.join(columns)}")
    ids = dict.fromkeys(KEY, str)
    table = pd.read_parquet(file) if file.suffix == ".parquet" else pd.read_csv(file, dtype=ids)
    if missing := [one for one in columns if one not in table]:
        raise RewardError(f"{file}: has no column {missing[0]!r}; needs {', '.join(columns)}, has {', '.join(table)}")
    value_Bk = _nothing(shown)
    place_of = {
        (request, user, item): (row, place)
        for row, (request, user, slate) in enumerate(zip(shown.request_id, shown.user_id, shown.slate_ids, strict=True))
        for place, item in enumerate(slate)
    }
    values = pd.to_numeric(table[name], errors="coerce").to_numpy(np.float64)
    for row, key in enumerate(zip(*(table[one].astype(str) for one in KEY), strict=True)):
        if key not in place_of or not np.isfinite(values[row]):
            raise RewardError(
                f"{file}, row {row + 1}: needs a {name} that is a number, of an item that the log shows, got "
                f"{table[name][row]!r} of {dict(zip(KEY, key, strict=True))}; leave out what the log does not have"
            )
        value_Bk[place_of[key]] += values[row]
    return value_Bk


def _nothing(shown: Slates) -> np.ndarray:
    return padded([[0.0] * len(slate) for slate in shown.slate_ids], 0.0)


def _span(seconds_B: np.ndarray) -> str:
    first, last = (np.datetime64(int(one), "s") for one in (seconds_B.min(), seconds_B.max()))
    return f"{first} to {last} UTC"
