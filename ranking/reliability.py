"""Whether probabilities mean what they say: the reliability curve, and the expected calibration error.

Bins hold equally many rows, so that each mean is known equally well; bins of equal width leave nearly all rows of a
click log in the first. Equal probabilities stay together, as calibration is a statement about each of them.
Source: Nguyen & O'Connor, "Posterior calibration and exploratory analysis for natural language processing models",
EMNLP 2015, sec. 3; Roelofs et al., "Mitigating bias in calibration error estimation", AISTATS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.stats import norm

from ranking.clicks.metrics import checked_probabilities

# N rows  G groups of equal probabilities, ascending  B bins

NUM_BINS = 15


@dataclass(frozen=True, eq=False)
class ReliabilityCurve:
    """The bins that have rows, by rising probability."""

    num_rows_B: np.ndarray
    probability_B: np.ndarray
    """Mean of what was said."""
    click_rate_B: np.ndarray
    """Share of clicks that came."""
    low_B: np.ndarray
    high_B: np.ndarray
    """Wilson's interval of the click rate, as if rows were independent."""


class EqualMassBins:
    """Probabilities and labels in the order of the probabilities, to be binned as often as a bootstrap asks.

    Args:
        probability_N: in [0, 1].
        label_N: 0 or 1.
        num_bins: the most there can be.
    Raises: MetricInputError.
    """

    def __init__(self, probability_N: np.ndarray, label_N: np.ndarray, num_bins: int = NUM_BINS) -> None:
        probability_N = checked_probabilities(probability_N, label_N)
        self._num_bins = num_bins
        self._order_N = np.argsort(probability_N, kind="stable")
        ordered_N = probability_N[self._order_N]
        self._begin_G = np.flatnonzero(np.append(True, ordered_N[1:] != ordered_N[:-1]))
        self._probability_G = ordered_N[self._begin_G]
        self._is_click_N = np.asarray(label_N)[self._order_N] > 0

    def error(self, count_N: np.ndarray | None = None) -> float:
        """Expected calibration error in [0, 1].

        ECE = sum over bins of rows_b / N * |mean probability_b - click rate_b|

        Args:
            count_N: how often each row counts, in the order given to the constructor; None for once.
        """
        rows_B, probability_B, clicks_B = self._sums(count_N)
        return float(np.abs(probability_B - clicks_B).sum() / rows_B.sum())

    def error_if_calibrated(self) -> float:
        """The error to be expected of these probabilities if every one of them were true: chance alone, at this size.

        A bin's clicks then have the variance sum p (1 - p), and the mean size of a normal variable is sqrt(2 / pi) of
        its deviation.
        """
        rows_G = np.diff(np.append(self._begin_G, len(self._order_N))).astype(np.float64)
        spread_G = rows_G * self._probability_G * (1 - self._probability_G)
        variance_B = np.bincount(self._bins(rows_G), spread_G, self._num_bins)
        return float(np.sqrt(2 / np.pi) * np.sqrt(variance_B).sum() / len(self._order_N))

    def curve(self, level: float = 0.95) -> ReliabilityCurve:
        """Args:
            level: probability inside an interval.
        Source: Wilson, "Probable inference, the law of succession, and statistical inference", JASA 1927.
        """
        rows_B, probability_B, clicks_B = self._sums(None)
        has_rows_B = rows_B > 0
        rows_B, probability_B, clicks_B = rows_B[has_rows_B], probability_B[has_rows_B], clicks_B[has_rows_B]
        rate_B, z = clicks_B / rows_B, float(norm.ppf((1 + level) / 2))
        middle_B = (rate_B + z**2 / (2 * rows_B)) / (1 + z**2 / rows_B)
        half_B = z * np.sqrt(rate_B * (1 - rate_B) / rows_B + z**2 / (4 * rows_B**2)) / (1 + z**2 / rows_B)
        return ReliabilityCurve(rows_B, probability_B / rows_B, rate_B, middle_B - half_B, middle_B + half_B)

    def _sums(self, count_N: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """[B] rows, sum of their probabilities, and their clicks."""
        ordered_N = np.ones(len(self._order_N)) if count_N is None else count_N[self._order_N].astype(np.float64)
        rows_G = np.add.reduceat(ordered_N, self._begin_G)
        clicks_G = np.add.reduceat(np.where(self._is_click_N, ordered_N, 0.0), self._begin_G)
        bin_G = self._bins(rows_G)
        rows_B, probability_B, clicks_B = (
            np.bincount(bin_G, values_G, self._num_bins)
            for values_G in (rows_G, rows_G * self._probability_G, clicks_G)
        )
        return rows_B, probability_B, clicks_B

    def _bins(self, rows_G: np.ndarray) -> np.ndarray:
        """[G] the bin in which the middle of each group lies."""
        end_G = np.cumsum(rows_G)
        middle_G = end_G - rows_G / 2
        return np.minimum((middle_G / end_G[-1] * self._num_bins).astype(np.int64), self._num_bins - 1)


def expected_calibration_error(probability_N: np.ndarray, label_N: np.ndarray, num_bins: int = NUM_BINS) -> float:
    """As `EqualMassBins.error`."""
    return EqualMassBins(probability_N, label_N, num_bins).error()
