"""Train/serve skew: the features that were logged when serving against those that the raw events give, value by value.

A served row may lag: it then is what the events gave at an earlier moment. So each request is compared with the user's
state at its moment, then with that before the user's newest interaction, and so on back to the moment of the release.
Where one of them fits in every feature the request is as far behind as its oldest missing interaction is old; where
none does, the features that differ from the state that fits best are named.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from features.schema import NULL, UNSEEN
from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.offline_features import LAST_TIMESTAMP, OfflineFeatures

# B logged requests  R those that are still looked at
MAX_STEPS = 50
"""Interactions since the release that a request may be behind."""
DELIVERY_SECONDS = 60
"""An event that came so shortly before the request may be in its features or not."""
MAX_EXAMPLES = 5
_TOLERANCE = 1e-4
"""Of numbers, which are stored as float32 of a logarithm: relative, and absolute below 1."""


@dataclass(frozen=True)
class Skew:
    """What the comparison found."""

    num_compared: int
    """Requests of users of whom something was read."""
    num_late: int
    """Others, of users whose events came out of order: what was known at the moment cannot be told."""
    num_behind: int
    """Requests that lack events of more than DELIVERY_SECONDS ago."""
    lag_seconds: np.ndarray
    """[num_compared] age of the oldest event that a request lacks; 0 for none."""
    differing: Mapping[str, int]
    """Feature -> requests in which it fits no state of the user; features without any are left out."""
    unseen: Mapping[str, int]
    """Feature -> those of them in which a category was served as one that the vocabulary does not have."""
    missing: Mapping[str, int]
    """Feature -> those of them in which it was served as null."""
    num_differing: int
    """Requests with at least one such feature."""
    examples: Mapping[str, Sequence[Mapping[str, object]]] = field(default_factory=dict)
    """Feature -> a few of them: user_id, logged, recomputed."""


def skew_of(requests: LoggedRequests, offline: OfflineFeatures, later: Sequence[LaterEvent] = ()) -> Skew:
    """Compare the logged features with those made from the raw events.

    Args:
        requests: of one release, the one of `offline`.
        later: the events that `offline` was given, for those that came late.
    """
    rows = np.flatnonzero(requests.is_known_B & _were_read(requests))
    late = _late_rows(requests, rows, later)
    rows = rows[~late]
    names = [name for name in requests.features if name in offline.names]
    users, received_R = [requests.user_id[row] for row in rows.tolist()], requests.received_B[rows]
    moment_R, as_of_R = received_R.copy(), requests.as_of_B[rows]
    num_best = np.full(len(rows), -1)
    lag_R = np.zeros(len(rows))
    fits = {name: np.zeros(len(rows), bool) for name in names}
    recomputed: dict[str, np.ndarray] = {}
    left = np.arange(len(rows))
    for _ in range(MAX_STEPS + 1):
        if not len(left):
            break
        expected = offline.at([users[row] for row in left.tolist()], moment_R[left])
        same = {name: _equal(requests.features[name][rows[left]], expected[name]) for name in names}
        num_same = np.sum(list(same.values()), axis=0)
        better = num_same > num_best[left]
        chosen = left[better]
        num_best[chosen] = num_same[better]
        lag_R[chosen] = np.where(moment_R[chosen] < received_R[chosen], received_R[chosen] - moment_R[chosen], 0)
        for name in names:
            fits[name][chosen] = same[name][better]
            recomputed.setdefault(name, np.full((len(rows), *expected[name].shape[1:]), np.nan))
            recomputed[name][chosen] = expected[name][better]
        before = expected[LAST_TIMESTAMP].astype(np.int64)
        goes_on = (num_best[left] < len(names)) & (before >= as_of_R[left])
        moment_R[left[goes_on]] = before[goes_on]
        left = left[goes_on]
    fitting = np.all(list(fits.values()), axis=0) if names else np.ones(len(rows), bool)
    lag_R = np.where(fitting & (lag_R > DELIVERY_SECONDS), lag_R, 0)
    differing = {name: int((~fits[name]).sum()) for name in names if not fits[name].all()}
    served = {name: requests.features[name][rows[~fits[name]]] for name in differing}
    served = {name: values for name, values in served.items() if values.ndim == 1}
    categories, empty_as = set(offline.categories), offline.without_attributes
    return Skew(
        num_compared=len(rows),
        num_late=int(late.sum()),
        num_behind=int((lag_R > 0).sum()),
        lag_seconds=lag_R,
        differing=dict(sorted(differing.items(), key=lambda one: -one[1])),
        unseen={name: int((values == UNSEEN).sum()) for name, values in served.items() if name in categories},
        missing={
            name: int(np.isclose(values, NULL if name in categories else empty_as.get(name, np.nan)).sum())
            for name, values in served.items()
        },
        num_differing=int((~fitting).sum()),
        examples={
            name: [
                {
                    "user_id": users[row],
                    "logged": _shown(requests.features[name][rows[row]]),
                    "recomputed": _shown(recomputed[name][row]),
                }
                for row in np.flatnonzero(~fits[name])[:MAX_EXAMPLES].tolist()
            ]
            for name in differing
        },
    )


def _were_read(requests: LoggedRequests) -> np.ndarray:
    """[B] whether the run came to the features."""
    first = next(iter(requests.features.values()), np.full((len(requests), 1), np.nan))
    return ~np.isnan(first.reshape(len(requests), -1)[:, 0])


def _late_rows(requests: LoggedRequests, rows: np.ndarray, later: Sequence[LaterEvent]) -> np.ndarray:
    """[R] whether the server had got a newer event of the user before an older one: a state that never was."""
    of_user: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for event in later:
        if event.received is not None:
            of_user[event.user_id].append((event.timestamp, event.received))

    def is_late(row: int) -> bool:
        moment, events = requests.received_B[row], of_user.get(requests.user_id[row], [])
        missing = [timestamp for timestamp, received in events if timestamp < moment < received]
        return bool(missing) and any(received <= moment and min(missing) < at for at, received in events)

    return np.array([is_late(row) for row in rows.tolist()], bool)


def _equal(logged: np.ndarray, expected: np.ndarray) -> np.ndarray:
    """[R] whether all elements are the same."""
    width = expected.shape[1] if expected.ndim > 1 else 1
    logged = logged.reshape(len(logged), -1)
    if logged.shape[1] != width:
        return np.zeros(len(logged), bool)
    return np.isclose(logged, expected.reshape(len(logged), -1), rtol=_TOLERANCE, atol=_TOLERANCE).all(1)


def _shown(value: np.ndarray) -> object:
    return np.atleast_1d(value)[:8].tolist() if np.ndim(value) else float(value)
