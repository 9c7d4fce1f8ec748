"""Intervals of click metrics: the impressions of the test part drawn again with replacement, the same for all systems.

Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 13.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from tqdm import tqdm

from ranking.clicks.metrics import RankedLabels, calibration_ratio, log_losses, normalised_entropy

# N impressions  S resamples  M metrics

METRICS = ("auc", "log_loss", "normalised_entropy", "calibration")
Interval = dict[str, float]
"""value, low, high; nan where a metric is not defined."""


class Measured:
    """One system's probabilities of the test part, ready to be measured on any resample of it."""

    def __init__(self, probability_N: np.ndarray, label_N: np.ndarray) -> None:
        self._ranked = RankedLabels(probability_N, label_N)
        self._loss_N = log_losses(probability_N, label_N)
        self._probability_N = np.asarray(probability_N, np.float64)
        self._label_N = np.asarray(label_N, np.float64)

    def metrics(self, count_N: np.ndarray | None = None) -> np.ndarray:
        """[M] METRICS of the impressions, each as often as it counts; None for once."""
        count_N = np.ones(len(self._label_N)) if count_N is None else count_N
        loss, probability, click_rate = (
            float(values_N @ count_N / count_N.sum()) for values_N in (self._loss_N, self._probability_N, self._label_N)
        )
        found = (self._ranked.auc(count_N), loss, normalised_entropy(loss, click_rate))
        return np.array([*found, calibration_ratio(probability, click_rate)])


def bootstrapped(systems: Mapping[str, Measured], num_rows: int, num_samples: int, seed: int) -> dict[str, np.ndarray]:
    """[S, M] metrics of each system on S resamples of the rows, which are the same for all systems."""
    rng = np.random.default_rng(seed)
    found: dict[str, list[np.ndarray]] = {name: [] for name in systems}
    for _ in tqdm(range(num_samples), desc="bootstrap", unit=" resamples", disable=None, leave=False):
        count_N = np.bincount(rng.integers(0, num_rows, num_rows), minlength=num_rows).astype(np.float64)
        for name, measured in systems.items():
            found[name].append(measured.metrics(count_N))
    return {name: np.stack(rows) for name, rows in found.items()}


def intervals(value_M: np.ndarray, sample_SM: np.ndarray, level: float) -> dict[str, Interval]:
    """Metric -> its value and the percentile interval of its resamples; those without clicks, or only clicks, left out.

    Args:
        value_M: on the test part itself.
        sample_SM: on its resamples.
        level: probability inside the interval.
    """
    found = {}
    for name, value, sample_S in zip(METRICS, value_M, sample_SM.T, strict=True):
        known_S = sample_S[~np.isnan(sample_S)]
        edges = np.quantile(known_S, [(1 - level) / 2, (1 + level) / 2]) if len(known_S) else (np.nan, np.nan)
        found[name] = {"value": float(value), "low": float(edges[0]), "high": float(edges[1])}
    return found
