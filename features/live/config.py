"""Configuration of live events, apart from the code that needs Feast."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EventsConfig:
    """Live events: new interactions that reach the next slates."""

    enabled: bool = True
    """Whether the server takes events: the model `cascade_events`, a process of its own."""
    max_batch_size: Annotated[int, Field(ge=1, le=4096)] = 512
    """Most events of one request, and of the requests that Triton joins into one transaction."""
    max_future_seconds: Annotated[int, Field(ge=0)] = 86_400
    """How far an event's time may lie ahead of the server's clock: a clock that runs wild would pin the history."""
    max_events_per_user: Annotated[int, Field(ge=1, le=100_000)] = 5_000
    """Live events of one user that the journal takes; every one of them makes the user's row longer."""
    retry_seconds: Annotated[float, Field(gt=0, le=60)] = 0.2
    """Pause in seconds between two tries to bring accepted events into a store that could not be written."""
    keep_days: Annotated[float, Field(gt=0)] = 90.0
    """Days for which the journal keeps an event, and knows its id, after it came. Longer than between two deploys."""
