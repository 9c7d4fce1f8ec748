"""What one version makes of a raw event: rows of its items, ids of its vocabularies, and the values of a user's row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from feast.protos.feast.types.Value_pb2 import Int64List, Value

from features.as_of import HISTORY, HISTORY_GAP, LAST, USER_NUMBERS
from features.history_gaps import NO_GAP
from features.live.event import Event
from features.live.user_state import LiveEvent, Pair, UserState, gaps
from features.log_scale import normalized_log
from features.store.live_file import LiveFile
from features.store.repository import LIVE, PAST

PADDING, NULL, UNSEEN, FIRST_KNOWN = 0, 1, 2, 3
"""As in `features.schema`, which imports Merlin; a test holds them together."""


class Encoding:
    """Read from a version's own files.

    Args:
        store: the store's folder.
        items: the etl stage's `items.parquet`.
    Raises: ArtifactError if the store takes no live events.
    """

    def __init__(self, store: Path, items: Path) -> None:
        self.live_file = LiveFile.read(store)
        table = pq.read_table(items, columns=["raw_id", "item_id"])
        self._row_of = {raw_id: row for row, raw_id in enumerate(table["raw_id"].cast("string").to_pylist())}
        self._item_id = table["item_id"].to_numpy()
        self._category_ids = {
            name: {value: FIRST_KNOWN + place for place, value in enumerate(values)}
            for name, values in self.live_file.categories.items()
        }

    @property
    def as_of(self) -> int:
        """Unix seconds up to which the version's log knows the users."""
        return self.live_file.as_of

    @property
    def categories(self) -> tuple[str, ...]:
        """Of the interactions."""
        return tuple(self._category_ids)

    @property
    def names(self) -> list[str]:
        """What must be read of a user's row before it is changed."""
        return ["num_events", PAST, LIVE]

    def knows(self, item_id: str) -> bool:
        return item_id in self._row_of

    def live_event(self, event: Event) -> LiveEvent | None:
        """The event in this version's terms; None if the version does not have the item."""
        row = self._row_of.get(event.item_id)
        if row is None:
            return None
        values = event.values if self._category_ids else {}
        ids = {name: self._category_id(name, values.get(name)) for name in self._category_ids}
        return LiveEvent(event.timestamp, row, event.received, ids)

    def state(self, row: Mapping[str, Value]) -> UserState:
        """What a stored row says; an unknown user's is empty."""
        live = _pairs(row.get(LIVE))
        num_events = row["num_events"].int64_val if "num_events" in row else 0
        return UserState(_pairs(row.get(PAST)), num_events - len(live), live)

    def values(self, state: UserState, newest: LiveEvent | None) -> dict[str, Value]:
        """What is written of a user whose state has changed; attributes, and the log's past, stay.

        Args:
            newest: the newest interaction, if it was not in the row before.
        """
        length = self.live_file.history_length
        history = state.history(length)
        (number,) = USER_NUMBERS
        count = normalized_log(np.array([state.num_events]), *self.live_file.num_events_scale)[0]
        values = {
            HISTORY: _padded([int(self._item_id[row]) for _, row in history], length, PADDING),
            HISTORY_GAP: _padded(gaps(history), length, NO_GAP),
            number: Value(float_val=count),
            "num_events": Value(int64_val=state.num_events),
            "last_timestamp": Value(int64_val=history[0][0]),
            LIVE: _list([number for timestamp, row in state.live for number in (row, timestamp)]),
        }
        if newest is not None:
            values |= {f"{LAST}{name}": Value(int64_val=code) for name, code in newest.category_ids.items()}
        return values

    def attributes_of_unknown(self) -> dict[str, Value]:
        """What is written beside that of a user whom the log does not have: the id that stands for such users.

        Attributes are left out, which a reader takes for unknown.
        """
        return {"user_id": Value(int64_val=UNSEEN)}

    def _category_id(self, name: str, value: str | None) -> int:
        return NULL if value is None else self._category_ids[name].get(value, UNSEEN)


def _pairs(value: Value | None) -> list[Pair]:
    if value is None:
        return []
    numbers = value.int64_list_val.val
    return list(zip(numbers[1::2], numbers[::2], strict=True))


def _padded(values: Sequence[int], length: int, filler: int) -> Value:
    return _list([*values, *[filler] * (length - len(values))])


def _list(values: Sequence[int]) -> Value:
    return Value(int64_list_val=Int64List(val=values))
