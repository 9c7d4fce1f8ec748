"""How far two samples of a number, or of a category, are apart: PSI and Kolmogorov-Smirnov, with what chance does."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy.stats import ks_2samp, kstwobign

from features.drift import population_stability_index

NUM_BINS = 10
"""Of a number, with as many values of the reference in each; of a category so many frequent ones and all others."""
CHANCE = 1e-3
"""A Kolmogorov-Smirnov statistic that chance alone reaches more often is no shift."""


@dataclass(frozen=True, eq=False)
class Sample:
    """Values of which several may be of one user, and so alike."""

    values: np.ndarray
    user: np.ndarray
    """[as values] whose each is: a number or an id."""

    @property
    def num_independent(self) -> int:
        """Users: the values of one user count as one when it is asked what chance does."""
        return len(np.unique(self.user))

    def where(self, kept: np.ndarray) -> Sample:
        """Some of the values."""
        return Sample(self.values[kept], self.user[kept])


@dataclass(frozen=True)
class Shift:
    """Of the window against the reference."""

    psi: float
    """Population stability index; 0 if they are alike."""
    psi_by_chance: float
    """What samples of these sizes stay under in 999 of 1,000 cases."""
    ks: float | None = None
    """Largest difference of the cumulative shares, 0..1; None for a category."""
    ks_chance: float = 1.0
    """Probability of that much by chance."""
    before: float | None = None
    """Mean of the reference; None for a category."""
    now: float | None = None
    """Mean of the window."""

    def exceeds(self, psi: float, ks: float) -> bool:
        """Whether the shift is larger than a threshold and than chance."""
        by_psi = self.psi > psi and self.psi > self.psi_by_chance
        return by_psi or (self.ks is not None and self.ks > ks and self.ks_chance < CHANCE)


def number_shift(reference: Sample, window: Sample) -> Shift | None:
    """Of a number; values that are no number are left out.

    Returns: None if one of the two is empty.
    """
    reference, window = (sample.where(np.isfinite(sample.values)) for sample in (reference, window))
    if not len(reference.values) or not len(window.values):
        return None
    edges = np.unique(np.quantile(reference.values, np.linspace(0, 1, NUM_BINS + 1)[1:-1]))
    counts = [
        np.bincount(np.searchsorted(edges, sample.values), minlength=len(edges) + 1) for sample in (reference, window)
    ]
    statistic = float(ks_2samp(reference.values, window.values, method="asymp").statistic)  # pyright: ignore[reportAttributeAccessIssue]
    sizes = reference.num_independent, window.num_independent
    chance = float(kstwobign.sf(statistic * math.sqrt(sizes[0] * sizes[1] / sum(sizes))))
    means = float(reference.values.mean()), float(window.values.mean())
    return Shift(*_psi(counts[0], counts[1], sizes), statistic, chance, *means)


def category_shift(reference: Sample, window: Sample) -> Shift | None:
    """Of a category's codes: its NUM_BINS most frequent values in the reference, and all others together.

    Returns: None if one of the two is empty.
    """
    if not len(reference.values) or not len(window.values):
        return None
    value, count = np.unique(reference.values, return_counts=True)
    frequent = value[np.argsort(-count, kind="stable")[:NUM_BINS]]
    counts = []
    for sample in (reference, window):
        of_frequent = [int((sample.values == one).sum()) for one in frequent]
        counts.append(np.array([*of_frequent, len(sample.values) - sum(of_frequent)]))
    there = (counts[0] > 0) | (counts[1] > 0)
    return Shift(*_psi(counts[0][there], counts[1][there], (reference.num_independent, window.num_independent)))


def _psi(reference: np.ndarray, window: np.ndarray, sizes: tuple[int, int]) -> tuple[float, float]:
    """PSI of two histograms, and what it stays under by chance with so many independent values."""
    scaled = [counts * (size / counts.sum()) for counts, size in zip((reference, window), sizes, strict=True)]
    return population_stability_index(scaled[0].tolist(), scaled[1].tolist())


def share_grew(before: float, num_before: int, now: float, num_now: int, by: float, errors: float = 4.0) -> bool:
    """Whether a share grew by more than a threshold and by more than so many standard errors.

    A share of 0 or 1 is taken for one with half a case, so that its error is not 0.
    """
    if not num_before or not num_now or now - before <= by:
        return False
    return now - before > errors * math.sqrt(
        sum(max(share * (1 - share), 0.5 / size) / size for share, size in ((before, num_before), (now, num_now)))
    )
