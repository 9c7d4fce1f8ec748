"""How long a reply may take, and the guards that hold the parts of the request path to it."""

from __future__ import annotations

import math
import time
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Milliseconds = Annotated[int, Field(ge=1, le=60_000)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DeadlineConfig:
    """What a reply, and each part of it that may be slow or gone, may take. A part that takes longer is left out."""

    default_ms: Annotated[int, Field(ge=0, le=60_000)] = 500
    """Milliseconds from a request's arrival at the model until its reply, where the request has no timeout_ms; 0 for
    no limit."""
    store_ms: Milliseconds = 100
    """Most milliseconds for reading the users' features."""
    candidates_ms: Milliseconds = 250
    """Most milliseconds for asking one candidate source."""
    ranker_ms: Milliseconds = 250
    """Most milliseconds for scoring the candidates."""
    num_failures: Annotated[int, Field(ge=1)] = 5
    """Failures in a row after which nobody waits for a part any more."""
    cool_down_seconds: Annotated[float, Field(gt=0)] = 2.0
    """Seconds until it is tried again, with one request."""

    @property
    def least_seconds(self) -> float:
        """The shortest of the parts' limits."""
        return min(self.store_ms, self.candidates_ms, self.ranker_ms) / 1e3


def seconds_left(deadline_B: np.ndarray) -> float:
    """Seconds until the first of the users' deadlines: the most impatient one rules a joined run.

    Args:
        deadline_B: seconds of `time.monotonic`; inf for none.
    """
    first = float(deadline_B.min(initial=math.inf))
    return first if first == math.inf else first - time.monotonic()
