"""How often the intervals hold the truth, in made worlds where it is known."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.ope.estimators import ESTIMATORS, overlap
from pipelines.ope.intervals import Spread, interval
from pipelines.ope.made_world import made_world


@dataclass(frozen=True)
class Coverage:
    """Of one estimator over all logs."""

    share: float
    """Logs whose interval holds the truth."""
    share_symmetric: float
    """The same of intervals that are not corrected for skewness."""
    error: float
    """Root of the mean squared error of the value."""
    width: float
    """Median width of the interval."""


def coverage(
    num_worlds: int,
    num_logs: int,
    num_rounds: int,
    distance: float,
    click_rate: float,
    sharpness: float = 1.0,
    level: float = 0.95,
) -> tuple[dict[str, Coverage], dict[str, float]]:
    """Of each estimator, and the medians of what the weights say.

    Args:
        num_logs: drawn from each world.
        num_rounds: of a log.
        distance, click_rate, sharpness: of `made_world`; world w is the same for all sizes.
    """
    found: dict[str, list[tuple[float, float, float, float]]] = {name: [] for name in ESTIMATORS}
    overlaps = []
    for number in range(num_worlds):
        rng = np.random.default_rng((number, num_rounds))
        world = made_world(np.random.default_rng(number), distance, click_rate, sharpness)
        for _ in range(num_logs):
            rounds = world.rounds(num_rounds, rng)
            overlaps.append(overlap(rounds.weight_N))
            for name, estimator in ESTIMATORS.items():
                influence_N = estimator(rounds)
                value, spread = float(influence_N.mean()), Spread.of(influence_N)
                skewed, symmetric = (interval(value, spread, level=level, corrected=one) for one in (True, False))
                held, plain = (one.low <= world.truth <= one.high for one in (skewed, symmetric))
                found[name].append((held, plain, (value - world.truth) ** 2, skewed.high - skewed.low))
    shares = {}
    for name, rows in found.items():
        held, held_symmetric, squared, width = np.array(rows, np.float64).T
        shares[name] = Coverage(held.mean(), held_symmetric.mean(), np.sqrt(squared.mean()), float(np.nanmedian(width)))
    return shares, {name: float(np.median([one[name] for one in overlaps])) for name in overlaps[0]}
