"""An event as callers send it, checked: what is wrong with one is said of that one, and the others go on."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Collection
from dataclasses import dataclass
from typing import Any

from features.errors import CascadeError

MAX_ID_BYTES = 256
"""Longest event, user or item id, and longest category, in bytes of UTF-8."""
MAX_ATTRIBUTES_BYTES = 4_096
"""Longest JSON of an event's attributes."""
PRICE = "price"

ACCEPTED, DUPLICATE, UNKNOWN_ITEM, REJECTED = "accepted", "duplicate", "unknown_item", "rejected"
"""Statuses; a rejected one goes on with ": " and the reason."""


class EventError(CascadeError, ValueError):
    """An event that cannot be taken as it stands: what was expected, what came, and what to do."""


@dataclass(frozen=True, slots=True)
class Event:
    """One interaction. Build it with `Event.of`, which checks."""

    event_id: str
    user_id: str
    item_id: str
    timestamp: int
    """Unix seconds at which it happened."""
    attributes: str = "{}"
    """JSON object of the interaction's categories and its price, keys in order."""
    received: int = 0
    """Unix seconds at which it came."""

    @classmethod
    def of(
        cls,
        event_id: Any,
        user_id: Any,
        item_id: Any,
        timestamp: Any,
        attributes: Any = None,
        *,
        categories: Collection[str] = (),
        max_future_seconds: int = 86_400,
        now: float | None = None,
    ) -> Event:
        """Check the values of one event.

        Args:
            event_id, user_id, item_id: text or UTF-8 bytes, 1 to MAX_ID_BYTES bytes.
            timestamp: whole Unix seconds, from 0 to max_future_seconds ahead of now.
            attributes: None, a mapping or its JSON: text or None of each of `categories`, a number as PRICE.
            now: Unix seconds; the clock if None.
        Raises: EventError.
        """
        now = time.time() if now is None else now
        return cls(
            _text(event_id, "event_id"),
            _text(user_id, "user_id"),
            _text(item_id, "item_id"),
            _moment(timestamp, int(now) + max_future_seconds),
            _attributes(attributes, categories) if attributes else "{}",
            int(now),
        )

    @property
    def values(self) -> dict[str, Any]:
        """The attributes by name."""
        return json.loads(self.attributes)


def _text(value: Any, name: str) -> str:
    try:
        encoded = value if isinstance(value, bytes) else value.encode() if isinstance(value, str) else None
        text = value.decode() if isinstance(value, bytes) else value
    except UnicodeError as error:
        raise EventError(f"{name} must be UTF-8, got {value[:32]!r}") from error
    if encoded is None:
        raise EventError(f"{name} must be a text, got {type(value).__name__} {value!r:.40}")
    if not 1 <= len(encoded) <= MAX_ID_BYTES:
        raise EventError(f"{name} must have 1 to {MAX_ID_BYTES} bytes, got {len(encoded)}")
    if "\0" in text:
        raise EventError(f"{name} must not hold a zero byte, got {text[:32]!r}")
    return text


def _moment(value: Any, latest: int) -> int:
    is_whole = not isinstance(value, bool) and (isinstance(value, int) or hasattr(value, "__index__"))
    if not is_whole:
        raise EventError(f"timestamp must be whole Unix seconds, got {type(value).__name__} {value!r:.40}")
    if not 0 <= value <= latest:
        raise EventError(
            f"timestamp must be Unix seconds (not milliseconds) from 0 to {latest}, a little ahead of now; got {value}"
        )
    return int(value)


def _attributes(given: Any, categories: Collection[str]) -> str:
    if isinstance(given, (str, bytes)):
        if len(given) > MAX_ATTRIBUTES_BYTES:
            raise EventError(f"attributes must have at most {MAX_ATTRIBUTES_BYTES} bytes, got {len(given)}")
        try:
            given = json.loads(given)
        except (ValueError, RecursionError) as error:
            raise EventError(f"attributes must be a JSON object, got {given[:40]!r} ({error})") from error
    if not isinstance(given, dict):
        raise EventError(f"attributes must be a JSON object, got {given!r:.40}")
    for name, value in given.items():
        if name == PRICE:
            _check_price(value)
        elif name in categories:
            if value is not None:
                _text(value, f"attribute {name}")
        else:
            known = ", ".join([*sorted(categories), PRICE])
            raise EventError(f"attribute {name!r:.40} is not one of this log's interactions; there are {known}")
    return json.dumps(given, sort_keys=True, ensure_ascii=False)


def _check_price(value: Any) -> None:
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if value is not None and not (is_number and math.isfinite(value) and value >= 0):
        raise EventError(f"attribute {PRICE} must be a number >= 0 or null, got {value!r:.40}")
