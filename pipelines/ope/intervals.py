"""Intervals of estimates that are means of influence values.

Rewards are rare and weights are heavy, so the mean of a few thousand influence values is still skewed: symmetric
intervals miss on one side. Hall's transformation takes the first order of the skewness out of the t statistic. Where a
few heavy weights met no reward it moves an interval away from the truth instead, so each side is the longer of both.
What no interval can see are weights so large that hardly one was drawn: the effective sample size and the share of the
largest weight say when to expect them (docs/ope.md).

Source: Hall, "On the removal of skewness by transformation", JRSS B 1992; clusters as in Cameron & Miller, "A
practitioner's guide to cluster-robust inference", Journal of Human Resources 2015.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit

# N rounds  U groups of rounds that depend on each other, such as a user's

_FLAT = 1e-6
"""Skewness below which the transformation is the identity to rounding."""


@dataclass(frozen=True)
class Interval:
    """An estimate and where the truth is with the probability `level`; low and high are nan if nothing varies."""

    value: float
    low: float
    high: float
    standard_error: float


@dataclass(frozen=True)
class Spread:
    """Cumulants of the mean of a sample."""

    variance: float
    third: float
    num_groups: int

    @classmethod
    def of(cls, influence_N: np.ndarray, group_N: np.ndarray | None = None) -> Spread:
        """Args:
        group_N: 0..U - 1, whose round it is; None if each stands for itself.
        """
        centred_N = influence_N - influence_N.mean()
        sum_U = centred_N if group_N is None else np.bincount(group_N, centred_N)
        num, num_rounds = len(sum_U), len(influence_N)
        if num < 2:
            return cls(np.nan, np.nan, num)
        return cls(float(sum_U @ sum_U * num / (num - 1)) / num_rounds**2, float((sum_U**3).sum()) / num_rounds**3, num)


def interval(value: float, *spreads: Spread, level: float = 0.95, corrected: bool = True) -> Interval:
    """Interval of a sum of means of independent samples.

    Args:
        value: the estimate.
        spreads: one a sample.
        corrected: for skewness; else the symmetric t interval.
    """
    error = float(np.sqrt(sum(one.variance for one in spreads)))
    if not error > 0:
        return Interval(value, np.nan, np.nan, error)
    quantile = float(stdtrit(min(one.num_groups for one in spreads) - 1, (1 + level) / 2))
    skewness = sum(one.third for one in spreads) / error**3 if corrected else 0.0
    below, above = (
        max(_untransformed(quantile, skewness), quantile),
        max(-_untransformed(-quantile, skewness), quantile),
    )
    return Interval(value, float(value - error * below), float(value + error * above), error)


def _untransformed(quantile: float, skewness: float) -> float:
    """The t whose transform t + s t^2 / 3 + s^2 t^3 / 27 + s / 6 is the quantile, s the skewness of the mean."""
    if abs(skewness) < _FLAT:
        return quantile
    return 3 / skewness * (np.cbrt(1 + skewness * (quantile - skewness / 6)) - 1)
