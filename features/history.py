"""What was known at a moment: every feature here looks strictly before the moment it is asked for."""

from __future__ import annotations

import heapq
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numba
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.history_gaps import GAP_0, NO_GAP, gaps_to_next

# E events  Q questions (a user or an item, and a moment)  N history length
SECONDS_PER_DAY = 86_400
NO_ITEM = NO_CODE = -1
CODES = "codes_of_"
TREND_PARTS = 4
"""The trend compares the last of so many equal parts of the window with the whole of it."""
OWN_COLUMNS = ("user_row", "item_row", "timestamp", "split", "price")
"""Columns of the events that are no category."""


@dataclass(frozen=True)
class UserState:
    """A user as of a moment."""

    history_QN: np.ndarray
    """Item rows of the last N interactions, newest first, NO_ITEM where there are fewer."""
    gap_QN: np.ndarray
    """How long before the next newer one each of them was, as `features.history_gaps` says it; NO_GAP pads."""
    num_events: np.ndarray
    """[Q] interactions so far."""
    recency_days: np.ndarray
    """[Q] days since the last interaction; 0 if there is none (num_events tells)."""
    last_timestamp: np.ndarray
    """[Q] Unix seconds of the last interaction; -1 if there is none."""
    last_categories: dict[str, pa.DictionaryArray]
    """Of each category of the interactions: [Q] its value at the last one; null if there is none, or no value."""


@dataclass(frozen=True)
class ItemState:
    """An item as of a moment."""

    num_events: np.ndarray
    """[Q] interactions so far."""
    num_recent_events: np.ndarray
    """[Q] interactions within the window before the moment."""
    recency_days: np.ndarray
    """[Q] days since the last interaction; 0 if there is none."""
    age_days: np.ndarray
    """[Q] days since the item's first interaction; 0 if there is none."""
    trend: np.ndarray
    """[Q] rate of interactions in the last quarter of the window over that in the whole window, (4 short + 1) /
    (long + 1): 1 is steady."""
    price: np.ndarray
    """[Q] last price paid; 0 if none is known."""
    price_ratio: np.ndarray
    """[Q] last price over the median of all prices so far; 1 if none is known."""


class EventLog:
    """Interactions indexed by user and by item, to be asked about any moment.

    Args:
        user_row, item_row: [E] rows of the users and items tables.
        timestamp: [E] Unix seconds.
        price: [E] price paid, nan where unknown; None if the log has no prices.
        categories: of each category of the interactions [E] values, null where unknown.
    """

    def __init__(
        self,
        user_row: np.ndarray,
        item_row: np.ndarray,
        timestamp: np.ndarray,
        price: np.ndarray | None = None,
        categories: Mapping[str, pa.DictionaryArray] | None = None,
    ) -> None:
        self._origin = int(timestamp.min()) if len(timestamp) else 0
        self._span = (int(timestamp.max()) - self._origin if len(timestamp) else 0) + 2
        by_user = _sorted_by(user_row, timestamp, user_row, item_row)  # the order in which the etl stage has them
        arrays = {
            "user_key": self._key(user_row[by_user], timestamp[by_user]),
            "item_of_user": item_row[by_user],
        }
        arrays["gap_of_user"] = gaps_to_next(arrays["user_key"])
        self._values = {name: column.dictionary.to_pylist() for name, column in (categories or {}).items()}
        for name, column in (categories or {}).items():
            arrays[f"{CODES}{name}"] = column.indices.fill_null(NO_CODE).to_numpy(zero_copy_only=False)[by_user]
        del by_user
        by_item = _sorted_by(item_row, timestamp)
        arrays["item_key"] = self._key(item_row[by_item], timestamp[by_item])
        if price is not None:
            arrays |= _price_history(item_row[by_item], price[by_item].astype(np.float64, copy=False))
        self._arrays: Mapping[str, np.ndarray] = arrays

    @classmethod
    def from_events(cls, events: pa.Table, before: int | None = None) -> EventLog:
        """Index the etl stage's `events.parquet`, or only what happened before a moment."""
        timestamp = events["timestamp"].to_numpy()
        kept = slice(None) if before is None else timestamp < before

        def column(name: str) -> np.ndarray:
            return events[name].to_numpy()[kept]

        categories = {name: coded(events[name]) for name in events.column_names if name not in OWN_COLUMNS}
        return cls(
            column("user_row"),
            column("item_row"),
            timestamp[kept],
            column("price") if "price" in events.column_names else None,
            {name: values if before is None else values.filter(pa.array(kept)) for name, values in categories.items()},
        )

    def save(self, folder: Path) -> None:
        """Write the index, for `EventLog.open` in other processes."""
        folder.mkdir(parents=True)
        for name, values in self._arrays.items():
            np.save(folder / f"{name}.npy", values)
        document = {"origin": self._origin, "span": self._span, "values": self._values}
        (folder / "log.json").write_text(json.dumps(document))

    @classmethod
    def open(cls, folder: Path) -> EventLog:
        """Map a saved index into memory: processes share it, and the system may drop what is not in use."""
        log, document = cls.__new__(cls), json.loads((folder / "log.json").read_text())
        log._origin, log._span, log._values = (document[name] for name in ("origin", "span", "values"))
        log._arrays = {path.stem: np.load(path, mmap_mode="r") for path in sorted(folder.glob("*.npy"))}
        return log

    @property
    def has_prices(self) -> bool:
        return "price" in self._arrays

    @property
    def categories(self) -> list[str]:
        """Names of the interactions' categories."""
        return list(self._values)

    def user_state(self, user_row: np.ndarray, timestamp: np.ndarray, history_length: int) -> UserState:
        """State of each user strictly before each moment.

        Args:
            user_row: [Q] users.
            timestamp: [Q] Unix seconds; interactions at that very second do not count.
            history_length: N; 0 for no history.
        """
        key, item_of_user = self._arrays["user_key"], self._arrays["item_of_user"]
        start, end = self._places(key, user_row, timestamp)
        history_QN = _newest_first(item_of_user, start, end, history_length, NO_ITEM)
        gap_QN = _newest_first(self._arrays["gap_of_user"], start, end, history_length, NO_GAP)
        gap_QN[end > start, :1] = GAP_0  # the time to what comes after the moment is not known
        last = np.where(end > start, self._moment(_take(key, end - 1), user_row), -1)
        recency = np.where(last >= 0, (timestamp - last) / SECONDS_PER_DAY, 0.0)
        categories = {name: self._category(name, start, end) for name in self.categories}
        return UserState(history_QN, gap_QN, end - start, recency, last, categories)

    def item_state(self, item_row: np.ndarray, timestamp: np.ndarray, window_days: float) -> ItemState:
        """State of each item strictly before each moment; the window is [moment - window_days, moment)."""
        key, window = self._arrays["item_key"], int(window_days * SECONDS_PER_DAY)
        moments = (timestamp, timestamp - window, timestamp - window // TREND_PARTS)
        start, end, before_window, before_short = self._places(key, item_row, *moments)
        is_known = end > start
        first, last = (self._moment(_take(key, at), item_row) for at in (start, end - 1))
        price, ratio = np.zeros(len(end)), np.ones(len(end))
        if self.has_prices:
            price = np.where(is_known, _take(self._arrays["price"], end - 1), 0.0)
            median = _take(self._arrays["median_price"], end - 1)
            ratio = np.where(is_known & (median > 0), price / np.where(median > 0, median, 1.0), 1.0)
        return ItemState(
            num_events=end - start,
            num_recent_events=end - before_window,
            recency_days=np.where(is_known, (timestamp - last) / SECONDS_PER_DAY, 0.0),
            age_days=np.where(is_known, (timestamp - first) / SECONDS_PER_DAY, 0.0),
            trend=(TREND_PARTS * (end - before_short) + 1) / (end - before_window + 1),
            price=price,
            price_ratio=ratio,
        )

    def items_before(self, user_row: np.ndarray, timestamp: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Distinct item rows of each user strictly before each moment.

        Returns: question numbers and item rows, both [num_pairs], ordered by question, then item.
        """
        start, end = self._places(self._arrays["user_key"], user_row, timestamp)
        num = end - start
        question = np.repeat(np.arange(len(num)), num)
        position = np.arange(num.sum()) - np.repeat(np.cumsum(num) - num, num) + np.repeat(start, num)
        item = self._arrays["item_of_user"][position].astype(np.int64)
        num_items = int(item.max(initial=0)) + 1
        return np.divmod(np.unique(question * num_items + item), num_items)

    def _category(self, name: str, start: np.ndarray, end: np.ndarray) -> pa.DictionaryArray:
        code = np.where(end > start, _take(self._arrays[f"{CODES}{name}"], end - 1), NO_CODE)
        values = pa.array(self._values[name], pa.string())
        return pa.DictionaryArray.from_arrays(pa.array(code, mask=code == NO_CODE), values)

    def _key(self, row: np.ndarray, timestamp: np.ndarray) -> np.ndarray:
        moment = np.clip(timestamp - self._origin, 0, self._span - 1)
        return row.astype(np.int64) * self._span + moment

    def _moment(self, key: np.ndarray, row: np.ndarray) -> np.ndarray:
        """Unix seconds of the row's events with these keys."""
        return key - row.astype(np.int64) * self._span + self._origin

    def _places(self, key: np.ndarray, row: np.ndarray, *moments: np.ndarray) -> Iterator[np.ndarray]:
        """Where the events of each row begin, then for each moment where those before it end; all [Q].

        Looked up in the order of the keys: on a large log several times faster than in a random one.
        """
        order = np.argsort(self._key(row, moments[0]))
        row = row[order].astype(np.int64)
        start = np.searchsorted(key, row * self._span)
        for sought in (start, *(self._key(row, moment[order]) for moment in moments)):
            place = np.empty(len(order), dtype=np.int64)
            place[order] = start if sought is start else np.maximum(start, np.searchsorted(key, sought))
            yield place


def _sorted_by(row: np.ndarray, *then: np.ndarray) -> np.ndarray:
    """Order of the events by row, then by the others; fast where they come sorted by the others already."""
    in_order = np.zeros(max(len(row) - 1, 0), dtype=bool)
    is_tied = np.ones_like(in_order)
    for values in then:
        in_order |= is_tied & (values[1:] > values[:-1])
        is_tied &= values[1:] == values[:-1]
    if (in_order | is_tied).all():
        return np.argsort(row, kind="stable")
    return np.lexsort((*reversed(then), row))


def _price_history(item_row: np.ndarray, price: np.ndarray) -> dict[str, np.ndarray]:
    """For every event, in the order of item and time: the last known price, and the median of the known ones so far."""
    last, median = _running_prices(item_row, price)
    return {"price": last.astype(np.float32), "median_price": median.astype(np.float32)}


@numba.njit(nogil=True, cache=True)
def _running_prices(item_row: np.ndarray, price: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The lower half of an item's prices in one heap (negated), the upper half in another."""
    last, median = np.zeros(len(price)), np.zeros(len(price))
    lower, upper = [0.0 for _ in range(0)], [0.0 for _ in range(0)]
    for event in range(len(price)):
        is_first = event == 0 or item_row[event] != item_row[event - 1]
        if is_first:
            lower.clear()
            upper.clear()
        if np.isnan(price[event]):
            last[event] = 0.0 if is_first else last[event - 1]
            median[event] = 0.0 if is_first else median[event - 1]
            continue
        if not lower or price[event] <= -lower[0]:
            heapq.heappush(lower, -price[event])
        else:
            heapq.heappush(upper, price[event])
        if len(lower) > len(upper) + 1:
            heapq.heappush(upper, -heapq.heappop(lower))
        elif len(upper) > len(lower):
            heapq.heappush(lower, -heapq.heappop(upper))
        last[event] = price[event]
        median[event] = -lower[0] if len(lower) > len(upper) else (upper[0] - lower[0]) / 2
    return last, median


def coded(column: pa.ChunkedArray | pa.Array) -> pa.DictionaryArray:
    """A text column as codes into one dictionary, whose values stand in the order of the text."""
    column = column if pa.types.is_dictionary(column.type) else column.dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.unify_dictionaries().combine_chunks()
        column = column.chunk(0) if isinstance(column, pa.ChunkedArray) else column
    order = pc.sort_indices(column.dictionary)
    place = np.empty(len(order), np.int32)
    place[order.to_numpy()] = np.arange(len(order), dtype=np.int32)
    indices = pa.array(place, pa.int32()).take(column.indices)
    return pa.DictionaryArray.from_arrays(indices, column.dictionary.take(order))


def _newest_first(values: np.ndarray, start: np.ndarray, end: np.ndarray, length: int, padding: int) -> np.ndarray:
    """[Q, length] the last values of each run of events, the last one first."""
    newest_QN = np.full((len(start), length), padding, values.dtype)
    _fill_newest(np.asarray(values), start, end, newest_QN)
    return newest_QN


@numba.njit(nogil=True, cache=True)
def _fill_newest(values: np.ndarray, start: np.ndarray, end: np.ndarray, newest_QN: np.ndarray) -> None:
    for question in range(len(newest_QN)):
        last, row = end[question] - 1, newest_QN[question]
        for place in range(min(len(row), end[question] - start[question])):
            row[place] = values[last - place]


def _take(values: np.ndarray, position: np.ndarray) -> np.ndarray:
    if not len(values):
        return np.zeros(position.shape, dtype=values.dtype)
    return values[np.clip(position, 0, len(values) - 1)]
