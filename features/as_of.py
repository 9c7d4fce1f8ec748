"""The features of an interaction, each as of its moment: what NVTabular reads, for any user, item and moment.

A name says whose feature it is: `user_...` and `history...` the user's (kept in the online store), `item_...` the
item's (kept in the items table). A new one needs a line in `_columns`, one in the tuples, and nothing in the leak test,
which finds it by its name.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa

from features import partitions
from features.history import NO_ITEM, EventLog
from features.history_gaps import NO_GAP

# E events  Q questions (a user, an item and a moment)  N history length
KEYS = ("user_row", "item_row", "timestamp")
HISTORY = "history"
HISTORY_GAP = "history_gap"
"""Of each interaction of the history how long before the next newer one it was, as `features.history_gaps` has it."""
# Numbers that are never negative and grow without bound: log(1 + x), then mean 0 and deviation 1 over the train part.
USER_NUMBERS = ("user_num_events",)
MOMENT_NUMBERS = ("user_recency_days",)
ITEM_NUMBERS = ("item_num_events", "item_num_recent_events", "item_recency_days", "item_age_days", "item_trend")
PRICE_NUMBERS = ("item_last_price", "item_price_ratio")
LAST = "user_last_"
"""`user_last_NAME` is the category NAME of the user's last interaction."""


@dataclass(frozen=True)
class AsOf:
    """Which features there are, and how far they look back."""

    history_length: int
    window_days: float
    has_prices: bool = False
    categories: tuple[str, ...] = ()
    """Categories of the interactions."""

    @property
    def item_numbers(self) -> tuple[str, ...]:
        """Numbers of the item at the moment."""
        return ITEM_NUMBERS + PRICE_NUMBERS * self.has_prices

    @property
    def numbers(self) -> tuple[str, ...]:
        return USER_NUMBERS + MOMENT_NUMBERS + self.item_numbers

    @property
    def user_categories(self) -> tuple[str, ...]:
        """Categories of the user at the moment."""
        return tuple(f"{LAST}{name}" for name in self.categories)

    @property
    def user_columns(self) -> tuple[str, ...]:
        """All that is known of the user at the moment and does not change until the user's next interaction."""
        return (HISTORY, HISTORY_GAP, *USER_NUMBERS, *self.user_categories)

    @property
    def schema(self) -> pa.Schema:
        """Of what `raw_interactions` returns."""
        kinds: dict[str, pa.DataType] = dict.fromkeys(KEYS, pa.int64())
        kinds |= dict.fromkeys((HISTORY, HISTORY_GAP), pa.large_list(pa.int64()))
        kinds |= dict.fromkeys(self.numbers, pa.float64())
        return pa.schema(kinds | dict.fromkeys(self.user_categories, pa.dictionary(pa.int32(), pa.string())))


def raw_interactions(
    log: EventLog,
    user_row: np.ndarray,
    item_row: np.ndarray,
    timestamp: np.ndarray,
    as_of: AsOf,
    names: Sequence[str] | None = None,
) -> pa.Table:
    """Features of pairs of a user and an item, each strictly before its moment.

    Args:
        user_row, item_row: [Q] rows of the tables.
        timestamp: [Q] Unix seconds.
        names: the columns wanted; None for all of `as_of.schema`.
    """
    columns = _columns(log, user_row, item_row, timestamp, as_of)
    schema = as_of.schema
    wanted = schema.names if names is None else names
    return pa.table({name: pa.array(columns[name](), schema.field(name).type) for name in wanted})


def _columns(
    log: EventLog, user_row: np.ndarray, item_row: np.ndarray, timestamp: np.ndarray, as_of: AsOf
) -> dict[str, Callable[[], np.ndarray | pa.Array]]:
    """Name -> its values; what nobody asks for is not computed."""
    window = as_of.window_days
    history = functools.cache(lambda: log.user_state(user_row, timestamp, as_of.history_length))
    user = functools.cache(lambda: log.user_state(user_row, timestamp, 0))
    item = functools.cache(lambda: log.item_state(item_row, timestamp, window))
    columns: dict[str, Callable[[], np.ndarray | pa.Array]] = {
        "user_row": lambda: user_row,
        "item_row": lambda: item_row,
        "timestamp": lambda: timestamp,
        HISTORY: lambda: _ragged(history().history_QN, history().history_QN != NO_ITEM),
        HISTORY_GAP: lambda: _ragged(history().gap_QN, history().gap_QN != NO_GAP),
        "user_num_events": lambda: user().num_events,
        "user_recency_days": lambda: user().recency_days,
        "item_num_events": lambda: item().num_events,
        "item_num_recent_events": lambda: item().num_recent_events,
        "item_recency_days": lambda: item().recency_days,
        "item_age_days": lambda: item().age_days,
        "item_trend": lambda: item().trend,
        "item_last_price": lambda: item().price,
        "item_price_ratio": lambda: item().price_ratio,
    }
    for name in as_of.categories:
        columns[f"{LAST}{name}"] = lambda name=name: user().last_categories[name]
    return columns


@dataclass(frozen=True)
class Interactions:
    """Raw interactions of a part of the events, as a source for NVTabular: computed when they are read.

    Several processes share the index, which is mapped into memory.
    """

    log: Path
    """A folder that `EventLog.save` wrote."""
    events: Path
    """A folder with [E] arrays `{user_row,item_row,timestamp}.npy` of all events."""
    begin: int
    end: int
    """The events of this part."""
    as_of: AsOf
    rows_per_part: int = field(default_factory=lambda: partitions.ROWS_PER_PART)

    @property
    def schema(self) -> pa.Schema:
        return self.as_of.schema

    def __len__(self) -> int:
        return -(-(self.end - self.begin) // self.rows_per_part)

    def read(self, part: int, columns: Sequence[str]) -> pa.Table:
        begin = self.begin + part * self.rows_per_part
        rows = slice(begin, min(begin + self.rows_per_part, self.end))
        user, item, moment = (np.asarray(np.load(self.events / f"{name}.npy", mmap_mode="r")[rows]) for name in KEYS)
        return raw_interactions(_opened(self.log), user, item, moment, self.as_of, columns)


@functools.lru_cache(maxsize=2)
def _opened(folder: Path) -> EventLog:
    return EventLog.open(folder)


def _ragged(values_QN: np.ndarray, known_QN: np.ndarray) -> pa.Array:
    offsets = np.concatenate([[0], np.cumsum(known_QN.sum(1))])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(values_QN[known_QN].astype(np.int64)))
