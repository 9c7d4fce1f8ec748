"""Intervals of click metrics: impressions of the test part drawn again with replacement, the same for all systems.

Where it is known whose impressions they are, those of one user are drawn together: they resemble each other, and drawn
one by one they would make intervals too narrow.
Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 13; on drawing whole clusters Cameron, Gelbach
& Miller, "Bootstrap-based improvements for inference with clustered errors", Review of Economics and Statistics 2008.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from ranking.clicks.metrics import GroupedAuc, RankedLabels, calibration_ratio, log_losses, normalised_entropy
from ranking.reliability import EqualMassBins

# N impressions  U groups of impressions, such as users  S resamples  M metrics

METRICS = ("auc", "gauc", "log_loss", "normalised_entropy", "calibration", "calibration_error")
Interval = dict[str, float]
"""value, low, high; nan where a metric is not defined."""


class Measured:
    """One system's probabilities of the test part, ready to be measured on any resample of it.

    Args:
        group_N: 0..U - 1, whose impression it is; None if that is not known, and there is no GAUC.
    Raises: MetricInputError if a probability is no number in [0, 1].
    """

    def __init__(self, probability_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray | None = None) -> None:
        self.bins = EqualMassBins(probability_N, label_N)
        self._ranked = RankedLabels(probability_N, label_N)
        self._grouped = None if group_N is None else GroupedAuc(probability_N, label_N, group_N)
        self._loss_N = log_losses(probability_N, label_N)
        self._probability_N = np.asarray(probability_N, np.float64)
        self._label_N = np.asarray(label_N, np.float64)

    def metrics(self, count_N: np.ndarray | None = None, count_U: np.ndarray | None = None) -> np.ndarray:
        """[M] METRICS of the impressions, each as often as it counts; None for once.

        Args:
            count_U: how often each group counts, if whole groups were drawn.
        """
        gauc = float("nan") if self._grouped is None else self._grouped.value(count_U)
        count_N = np.ones(len(self._label_N)) if count_N is None else count_N
        loss, probability, click_rate = (
            float(values_N @ count_N / count_N.sum()) for values_N in (self._loss_N, self._probability_N, self._label_N)
        )
        found = (self._ranked.auc(count_N), gauc, loss, normalised_entropy(loss, click_rate))
        return np.array([*found, calibration_ratio(probability, click_rate), self.bins.error(count_N)])


def bootstrapped(
    systems: Mapping[str, Measured], num_rows: int, num_samples: int, seed: int, group_N: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """[S, M] metrics of each system on S resamples, which are the same for all systems.

    Args:
        group_N: 0..U - 1, to draw whole groups; None to draw rows.
    """
    rng = np.random.default_rng(seed)
    num_drawn = num_rows if group_N is None else int(group_N.max()) + 1
    found: dict[str, list[np.ndarray]] = {name: [] for name in systems}
    for _ in tqdm(range(num_samples), desc="bootstrap", unit=" resamples", disable=None, leave=False):
        count = np.bincount(rng.integers(0, num_drawn, num_drawn), minlength=num_drawn).astype(np.float64)
        drawn = (count, None) if group_N is None else (count[group_N], count)
        for name, measured in systems.items():
            found[name].append(measured.metrics(*drawn))
    return {name: np.stack(rows) for name, rows in found.items()}


def intervals(value_M: np.ndarray, sample_SM: np.ndarray, level: float, lowest: float = -np.inf) -> dict[str, Interval]:
    """Metric -> its value and the percentile interval of its resamples; those without clicks, or only clicks, left out.

    The calibration error has the basic interval, value - (quantile of the resamples - value), instead: it is a sum of
    sizes, which chance makes larger, in the sample once and in a resample twice.

    Args:
        value_M: on the test part itself.
        sample_SM: on its resamples.
        level: probability inside the interval.
        lowest: what the calibration error cannot fall below: 0, but nothing for a difference of two.
    Source: Davison & Hinkley, "Bootstrap methods and their application", 1997, sec. 5.2, on the basic interval.
    """
    found = {}
    for name, value, sample_S in zip(METRICS, value_M, sample_SM.T, strict=True):
        known_S = sample_S[~np.isnan(sample_S)]
        low, high = np.quantile(known_S, [(1 - level) / 2, (1 + level) / 2]) if len(known_S) else (np.nan, np.nan)
        if name == "calibration_error":
            low, high = max(2 * value - high, lowest), max(2 * value - low, lowest)
        found[name] = {"value": float(value), "low": float(low), "high": float(high)}
    return found
