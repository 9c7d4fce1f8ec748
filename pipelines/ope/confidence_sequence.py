"""Intervals that hold at all times at once: one may look after every user, and stop when one likes.

`asymptotic` is for means and what is computed from them, once there are enough users for a normal approximation: the
probability that it ever misses afterwards is 1 - level. `bounded` holds from the first user on, for values in [0, 1],
and is wider.

Sources: Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas, "Time-uniform central limit theory and asymptotic confidence
sequences", Annals of Statistics 2024, theorem 2.2 (asymptotic); Howard, Ramdas, McAuliffe & Sekhon, "Time-uniform,
nonparametric, nonasymptotic confidence sequences", Annals of Statistics 2021, and Waudby-Smith & Ramdas, "Estimating
means of bounded random variables by betting", JRSS B 2024, theorem 2 (empirical Bernstein, bounded).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# N values in the order in which they came

_LARGEST_BET = 0.5


@dataclass(frozen=True, eq=False)
class Sequence:
    """What is said after each value, [N]."""

    value_N: np.ndarray
    low_N: np.ndarray
    high_N: np.ndarray


def asymptotic(value_N: np.ndarray, deviation_N: np.ndarray, num_N: np.ndarray, level: float, planned: int) -> Sequence:
    """Of estimates that are, but for what vanishes, means of `num_N` values with the deviation `deviation_N`.

    Args:
        planned: the number of values at which it is narrowest, fixed before looking; it holds at all others too.
    """
    alpha = 1 - level
    rate = (-2 * np.log(alpha) + np.log(-2 * np.log(alpha) + 1)) / planned  # rho^2
    spread_N = num_N * rate + 1
    half_N = deviation_N * np.sqrt(2 * spread_N / (num_N**2 * rate) * np.log(np.sqrt(spread_N) / alpha))
    return Sequence(value_N, value_N - half_N, value_N + half_N)


def bounded(value_N: np.ndarray, level: float) -> Sequence:
    """Of the mean of values in [0, 1] that have the same mean given those before them.

    Raises: ValueError if a value is outside.
    """
    if not ((value_N >= 0) & (value_N <= 1)).all():
        raise ValueError(f"value_N must be in [0, 1], got {value_N.min()} to {value_N.max()}; divide by the largest")
    num_N = np.arange(1, len(value_N) + 1)
    mean_N = (0.5 + value_N.cumsum()) / (num_N + 1)
    variance_N = (0.25 + ((value_N - mean_N) ** 2).cumsum()) / (num_N + 1)
    mean_before_N, variance_before_N = _before(mean_N, 0.5), _before(variance_N, 0.25)
    surprise = np.log(2 / (1 - level))
    bet_N = np.minimum(np.sqrt(2 * surprise / (variance_before_N * num_N * np.log1p(num_N))), _LARGEST_BET)
    stakes_N = bet_N.cumsum()
    penalty_N = ((value_N - mean_before_N) ** 2 * (-np.log1p(-bet_N) - bet_N)).cumsum()
    centre_N, half_N = (bet_N * value_N).cumsum() / stakes_N, (surprise + penalty_N) / stakes_N
    return Sequence(centre_N, np.maximum(centre_N - half_N, 0), np.minimum(centre_N + half_N, 1))


def last(sequence: Sequence) -> dict[str, float]:
    """What is said after the last value."""
    return {name: float(getattr(sequence, f"{name}_N")[-1]) for name in ("value", "low", "high")}


def _before(value_N: np.ndarray, first: float) -> np.ndarray:
    return np.concatenate([[first], value_N[:-1]])
