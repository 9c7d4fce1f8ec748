"""What a user's row becomes with more events: the same whatever their order, and however often they come.

The row keeps what the log said up to `as_of` (PAST: the last N interactions), which no event changes, and the live
events beside it (LIVE); everything that a slate is made from follows from the two.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.history_gaps import GAP_0, gaps_to_next

# N history length
Pair = tuple[int, int]
"""Unix seconds and item row of an interaction: in the order of pairs the etl stage has a user's interactions."""


@dataclass(frozen=True, slots=True)
class LiveEvent:
    """An event in the terms of one version: its item's row, its categories' ids."""

    timestamp: int
    item_row: int
    received: int
    """Unix seconds at which it came."""
    category_ids: dict[str, int] = field(default_factory=dict)

    @property
    def pair(self) -> Pair:
        return self.timestamp, self.item_row


@dataclass(frozen=True)
class UserState:
    """A user's interactions as the row keeps them."""

    past: list[Pair]
    """The last N of the log, newest first."""
    num_past: int
    """Interactions in the log."""
    live: list[Pair]
    """Of live events, newest first, each once."""

    @property
    def num_events(self) -> int:
        return self.num_past + len(self.live)

    @property
    def newest(self) -> Pair | None:
        return max([*self.past[:1], *self.live[:1]], default=None)

    def history(self, length: int) -> list[Pair]:
        """The last `length` interactions, newest first."""
        return sorted([*self.past, *self.live[:length]], reverse=True)[:length]


def with_events(
    state: UserState, events: Sequence[LiveEvent], as_of: int, seen: Callable[[], Collection[int]]
) -> tuple[UserState, LiveEvent | None]:
    """The user's state with more events.

    Args:
        as_of: Unix seconds up to which the log knows the user.
        seen: the item rows of all the log's interactions; asked only about events from before `as_of`.
    Returns: the state, and the event that is its newest interaction if that is one of these.
    """
    known, new = set(state.live), {}
    for event in events:
        if event.pair not in known and not _is_in_log(event, state, as_of, seen):
            new[event.pair] = event
    if not new:
        return state, None
    newest = max(new)
    is_newest = state.newest is None or newest > state.newest
    live = sorted([*state.live, *new], reverse=True)
    return UserState(state.past, state.num_past, live), new[newest] if is_newest else None


def gaps(history: Sequence[Pair]) -> list[int]:
    """Of each interaction, newest first, how long before the next newer one it was, as `features.history_gaps` says."""
    if not history:
        return []
    found = gaps_to_next(np.array([timestamp for timestamp, _ in reversed(history)], dtype=np.int64))
    found[-1] = GAP_0
    return found[::-1].tolist()


def _is_in_log(event: LiveEvent, state: UserState, as_of: int, seen: Callable[[], Collection[int]]) -> bool:
    """Whether the log has the event already.

    It has all that came before `as_of`. What happened before and came later is looked up; of interactions older than
    the N that are kept only the items are known, and an item that is among them counts as this very interaction.
    """
    if event.timestamp >= as_of:
        return False
    if event.received < as_of or event.pair in state.past:
        return True
    is_older = state.num_past > len(state.past) and (not state.past or event.pair < state.past[-1])
    return is_older and event.item_row in seen()
