"""When load is sent and how much of it: drawn beforehand, so that no reply can delay what comes after it."""

from __future__ import annotations

import numpy as np

BURST = 4.0
"""How many times the mean rate a burst has; between bursts nothing comes."""
BURST_SECONDS = 0.5
"""Mean length of a burst."""
_ZIPF_EXPONENT = 2.0
_LOGNORMAL_SIGMA = 1.5
ACTIVITY_EXPONENT = 1.0
"""The r-th most active user asks in proportion to r to the power of minus this."""


def poisson_times(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Arrivals of independent callers.

    Args:
        rate: mean arrivals a second, > 0.
        seconds: length of the test, > 0.
    Returns: [N] ascending seconds in 0..seconds; N is random with mean and variance rate * seconds.
    """
    return np.sort(rng.uniform(0, seconds, rng.poisson(rate * seconds)))


def bursty_times(rate: float, seconds: float, rng: np.random.Generator) -> np.ndarray:
    """Arrivals in bursts: a Poisson process of BURST times the rate that is switched on and off at random.

    Both states last exponential times, the bursts BURST_SECONDS on average, so that the mean rate is `rate`.

    Returns: [N] ascending seconds in 0..seconds.
    """
    busy = _busy_intervals(seconds, rng)
    total = float((busy[:, 1] - busy[:, 0]).sum())
    within = np.sort(rng.uniform(0, total, rng.poisson(rate * BURST * total)))
    starts = np.concatenate([[0.0], np.cumsum(busy[:, 1] - busy[:, 0])])  # of each burst, on the clock of busy time
    burst = np.searchsorted(starts, within, side="right") - 1
    return busy[burst, 0] + within - starts[burst]


def call_sizes(kind: str, num_calls: int, max_size: int, rng: np.random.Generator) -> np.ndarray:
    """Users of each call.

    Args:
        kind: `zipf` or `lognormal`, heavy-tailed and cut at max_size; or a number, the same for all.
    Returns: [num_calls] int64 in 1..max_size.
    Raises: ValueError if the kind is none of these, or a number outside 1..max_size.
    """
    if kind in ("zipf", "lognormal"):
        size = np.arange(1, max_size + 1)
        weight = (
            size**-_ZIPF_EXPONENT if kind == "zipf" else np.exp(-0.5 * (np.log(size) / _LOGNORMAL_SIGMA) ** 2) / size
        )
        return rng.choice(size, num_calls, p=weight / weight.sum())
    if kind.isdecimal() and 1 <= int(kind) <= max_size:
        return np.full(num_calls, int(kind))
    raise ValueError(f"users per call must be zipf, lognormal or a number 1..{max_size}, got {kind!r}")


def active_users(num_events: np.ndarray, num_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Places of the users who ask: who did more before asks more now, as 1 / rank.

    Args:
        num_events: [U] interactions of each user.
    Returns: [num_draws] places in 0..U-1.
    """
    order = np.argsort(-num_events, kind="stable")
    weight = np.arange(1, len(order) + 1) ** -ACTIVITY_EXPONENT
    return order[rng.choice(len(order), num_draws, p=weight / weight.sum())]


def _busy_intervals(seconds: float, rng: np.random.Generator) -> np.ndarray:
    """[M, 2] starts and ends of the bursts within 0..seconds; the first state is drawn as the others are met."""
    busy: list[tuple[float, float]] = []
    now, is_busy = 0.0, rng.random() < 1 / BURST
    while now < seconds:
        lasts = rng.exponential(BURST_SECONDS * (1 if is_busy else BURST - 1))
        if is_busy:
            busy.append((now, min(now + lasts, seconds)))
        now, is_busy = now + lasts, not is_busy
    return np.array(busy).reshape(-1, 2)
