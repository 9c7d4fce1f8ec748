"""What a run's tables say of its users and items, in the words of the logs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.artifact import Artifact
from pipelines.explore.question import UnknownError

MAX_FOUND = 20
MAX_HISTORY = 200
_MAX_TEXT = 300


@dataclass(frozen=True)
class Found:
    """A line of a search's results."""

    id: str
    title: str


@dataclass(frozen=True)
class Interaction:
    """An entry of a user's history."""

    item_id: str
    title: str
    timestamp: int
    is_known: bool
    """Whether it happened before the moment of the features: the pipeline knows nothing of the others."""


@dataclass(frozen=True)
class User:
    """A user as the logs have one."""

    id: str
    attributes: dict[str, Any]
    num_events: int
    """Interactions that the pipeline knows of."""
    history: list[Interaction]
    """Newest first, the last MAX_HISTORY."""


class RunTables:
    """Args:
    etl: the run's finished stage.
    """

    def __init__(self, etl: Artifact) -> None:
        self._users, self._items = (pq.read_table(etl.file(f"raw/{name}.parquet")) for name in ("users", "items"))
        self._user_id, self._item_id = (
            table[f"{name}_id"].cast(pa.string()).combine_chunks()
            for name, table in (("user", self._users), ("item", self._items))
        )
        titles = pq.read_table(etl.file("items.parquet"), columns=["title"])["title"]
        self._title = pc.fill_null(titles.cast(pa.string()), "").combine_chunks()
        self._num_events = pq.read_table(etl.file("users.parquet"), columns=["num_events"])["num_events"].to_numpy()
        self._events = etl.file("events.parquet")
        self.as_of = int(etl.metrics["as_of"])
        """Unix seconds up to which the features know the users."""

    @property
    def num_users(self) -> int:
        return len(self._user_id)

    @property
    def num_items(self) -> int:
        return len(self._item_id)

    def most_active(self, num_users: int) -> list[str]:
        """Ids of the users with the most interactions that the pipeline knows of."""
        rows = np.argsort(-self._num_events, kind="stable")[:num_users]
        return self._user_id.take(pa.array(rows)).to_pylist()

    def users(self, text: str) -> list[Found]:
        """Users whose ids hold the text, those that begin with it first."""
        return [
            Found(self._user_id[row].as_py(), f"{self._num_events[row]:,} interactions")
            for row in _first(pc.starts_with(self._user_id, text), pc.match_substring(self._user_id, text))
        ]

    def items(self, text: str) -> list[Found]:
        """Items whose ids hold the text, or whose titles hold all of its words."""
        masks = [pc.starts_with(self._item_id, text), pc.match_substring(self._item_id, text)]
        if words := text.split():
            has = [pc.match_substring(self._title, word, ignore_case=True).to_numpy(False) for word in words]
            masks.append(pa.array(np.logical_and.reduce(has)))
        return [Found(self.item_id(row), self.title(row)) for row in _first(*masks)]

    def user(self, user_id: str) -> User:
        """Raises: UnknownError."""
        row = pc.index(self._user_id, user_id).as_py()
        if row < 0:
            raise UnknownError(f"the run has no user {user_id!r:.80}; its ids look like {self._user_id[0]}")
        events = pq.read_table(self._events, columns=["item_row", "timestamp"], filters=[("user_row", "=", row)])
        item_row, timestamp = (events[name].to_numpy() for name in ("item_row", "timestamp"))
        newest = np.lexsort((-item_row, -timestamp))[:MAX_HISTORY]
        history = [
            Interaction(self.item_id(row), self.title(row), moment, moment < self.as_of)
            for row, moment in zip(item_row[newest].tolist(), timestamp[newest].tolist(), strict=True)
        ]
        return User(user_id, self._attributes(self._users, row), int(self._num_events[row]), history)

    def item_row(self, item_id: str) -> int:
        """Raises: UnknownError."""
        row = pc.index(self._item_id, item_id).as_py()
        if row < 0:
            raise UnknownError(f"the run has no item {item_id!r:.80}; its ids look like {self._item_id[0]}")
        return row

    def item_id(self, row: int) -> str:
        return self._item_id[int(row)].as_py()

    def title(self, row: int) -> str:
        return self._title[int(row)].as_py()

    def item(self, row: int) -> dict[str, Any]:
        """Attributes of an item."""
        return self._attributes(self._items, row)

    def user_attributes(self, user_id: str) -> dict[str, Any]:
        """Attributes of a user; none of an unknown one."""
        row = pc.index(self._user_id, user_id).as_py()
        return self._attributes(self._users, row) if row >= 0 else {}

    def _attributes(self, table: pa.Table, row: int) -> dict[str, Any]:
        values = table.slice(row, 1).to_pylist()[0]
        own = ("user_id", "item_id", "title")
        return {name: _shown(value) for name, value in values.items() if value is not None and name not in own}


def _first(*masks: pa.Array) -> list[int]:
    """Rows of the first MAX_FOUND, those of the first mask first."""
    found: dict[int, None] = {}
    for mask in masks:
        for row in np.flatnonzero(pc.fill_null(mask, False).to_numpy(zero_copy_only=False))[:MAX_FOUND].tolist():
            found.setdefault(row)
    return list(found)[:MAX_FOUND]


def _shown(value: Any) -> Any:
    """A value that JSON has; a long text is cut."""
    if isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return round(value, 6)
    text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
    return text if len(text) <= _MAX_TEXT else f"{text[:_MAX_TEXT]}…"
