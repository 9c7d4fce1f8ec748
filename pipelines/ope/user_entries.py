"""Users as the units of a comparison that may be looked at any time: each counts once, when his time is over.

What counts then never changes, which is what intervals for all times need.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from features.errors import CascadeError
from pipelines.ope.shown_slates import ShownSlates

# B logged requests of a user  U users in the order of their first request
FEWEST = 20
"""Users of each kind before a normal approximation is looked at."""
_SECONDS_AN_HOUR = 3_600


class ComparisonError(CascadeError, ValueError):
    """The log holds no comparison."""


@dataclass(frozen=True)
class ReadOut:
    """How a comparison is read."""

    user_hours: float
    """After a user's first logged request, in which his requests count."""
    window_hours: float
    """From a request to its events."""
    level: float = 0.95
    planned: int = 10_000
    """Users at which the intervals are narrowest; fixed before looking."""


@dataclass(frozen=True, eq=False)
class Entries:
    """Users whose time is over."""

    row_U: np.ndarray
    """First request of each."""
    value_U: np.ndarray
    """Sum of the values of the requests in his time."""


def entries(shown: ShownSlates, value_B: np.ndarray, now: float, read_out: ReadOut) -> Entries:
    """Args:
        value_B: of each request.
        now: Unix seconds up to which requests and events are known.
    Raises: ComparisonError if nobody's time is over.
    """
    _, first_U, user_B = np.unique(shown.user_id, return_index=True, return_inverse=True)
    begun_U = shown.received_B[first_U]
    counts_B = shown.received_B <= begun_U[user_B] + read_out.user_hours * _SECONDS_AN_HOUR
    value_U = np.bincount(user_B, np.where(counts_B, value_B, 0))
    over = np.flatnonzero(begun_U + (read_out.user_hours + read_out.window_hours) * _SECONDS_AN_HOUR <= now)
    if not len(over):
        raise ComparisonError(
            f"no user's time is over: the log is shorter than {read_out.user_hours:g} hours from a user's first "
            f"request and {read_out.window_hours:g} more for events; wait, or lower --user-hours and --window-hours"
        )
    order = over[np.argsort(first_U[over])]
    return Entries(first_U[order], value_U[order])
