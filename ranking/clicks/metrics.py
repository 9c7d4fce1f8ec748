"""Metrics of click probabilities: AUC, log loss, normalised entropy, calibration.

Each takes how often an impression counts, so that a bootstrap resample is one array of counts: what needs sorting is
sorted once.
"""

from __future__ import annotations

import numpy as np

# N impressions  G groups of equal scores

SMALLEST_PROBABILITY = 1e-7
"""Probabilities count as at least this far from 0 and 1: a float32 sigmoid reaches both, where the loss is infinite."""


class RankedLabels:
    """Labels in the order of their scores, from which the AUC of any resample follows without sorting again.

    AUC = P(score of a click > score of a non-click) + P(equal) / 2

    Args:
        score_N: any scores, higher where a click is likelier; no nan.
        label_N: 0 or 1.
    Source: Hanley & McNeil, "The meaning and use of the area under a ROC curve", Radiology 1982.
    """

    def __init__(self, score_N: np.ndarray, label_N: np.ndarray) -> None:
        self._order_N = np.argsort(score_N, kind="stable")
        ordered_N = np.asarray(score_N)[self._order_N]
        self._begin_G = np.flatnonzero(np.append(True, ordered_N[1:] != ordered_N[:-1]))
        self._is_click_N = np.asarray(label_N)[self._order_N] > 0

    def auc(self, count_N: np.ndarray | None = None) -> float:
        """Area under the ROC curve in [0, 1]; nan if the counted impressions are all clicks, or all none.

        Args:
            count_N: how often each impression counts, in the order given to the constructor; None for once.
        """
        if not len(self._order_N):
            return float("nan")
        count_N = np.ones(len(self._order_N)) if count_N is None else count_N[self._order_N].astype(np.float64)
        click_N = np.where(self._is_click_N, count_N, 0.0)
        click_G = np.add.reduceat(click_N, self._begin_G)
        other_G = np.add.reduceat(count_N - click_N, self._begin_G)
        below_G = np.cumsum(other_G) - other_G
        pairs = click_G.sum() * other_G.sum()
        return float((click_G * (below_G + other_G / 2)).sum() / pairs) if pairs else float("nan")


def auc(score_N: np.ndarray, label_N: np.ndarray) -> float:
    """Area under the ROC curve, as `RankedLabels`."""
    return RankedLabels(score_N, label_N).auc()


def log_losses(probability_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """[N] -log of the probability given to what happened, in nats."""
    clipped_N = np.clip(np.asarray(probability_N, np.float64), SMALLEST_PROBABILITY, 1 - SMALLEST_PROBABILITY)
    return -np.log(np.where(np.asarray(label_N) > 0, clipped_N, 1 - clipped_N))


def normalised_entropy(log_loss: float, click_rate: float) -> float:
    """Log loss over that of always saying the click rate of the same impressions; below 1 is better than that.

    NE = log_loss / -(p log p + (1 - p) log(1 - p))

    Returns: nan if there are only clicks, or none.
    Source: He et al., "Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014.
    """
    if not 0 < click_rate < 1:
        return float("nan")
    background = -(click_rate * np.log(click_rate) + (1 - click_rate) * np.log1p(-click_rate))
    return float(log_loss / background)


def calibration_ratio(mean_probability: float, click_rate: float) -> float:
    """Clicks expected over clicks that came; above 1 promises too much. nan if none came.

    Source: He et al. 2014, as above.
    """
    return float(mean_probability / click_rate) if click_rate > 0 else float("nan")
