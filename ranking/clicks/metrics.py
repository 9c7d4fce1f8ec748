"""Metrics of click probabilities: AUC, also by group, log loss, normalised entropy, calibration ratio.

Each takes how often an impression counts, so that a bootstrap resample is one array of counts: what needs sorting is
sorted once.
"""

from __future__ import annotations

import numpy as np

from features.errors import CascadeError

# N impressions  G groups of equal scores  U groups of impressions, such as users

SMALLEST_PROBABILITY = 1e-7
"""Probabilities count as at least this far from 0 and 1: a float32 sigmoid reaches both, where the loss is infinite."""


class MetricInputError(CascadeError, ValueError):
    """Probabilities or labels that cannot be measured."""


def checked_probabilities(probability_N: np.ndarray, label_N: np.ndarray) -> np.ndarray:
    """[N] the probabilities in float64.

    Raises: MetricInputError for the first that is no number in [0, 1], for a label that is neither 0 nor 1, if there
        are none, or not as many labels.
    """
    probability_N, label_N = np.asarray(probability_N, np.float64), np.asarray(label_N)
    if probability_N.shape != label_N.shape or probability_N.ndim != 1 or not len(label_N):
        raise MetricInputError(
            f"probabilities and labels must be two flat arrays of one length above 0, got {probability_N.shape} and "
            f"{label_N.shape}"
        )
    for name, value_N, is_good_N, needed in (
        ("probability", probability_N, (probability_N >= 0) & (probability_N <= 1), "a number in 0..1"),
        ("label", label_N, (label_N == 0) | (label_N == 1), "0 or 1"),
    ):
        if not is_good_N.all():
            row = int(np.argmin(is_good_N))
            raise MetricInputError(f"the {name} of row {row} (the first is 0) is {value_N[row]}, needed {needed}")
    return probability_N


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


class GroupedAuc:
    """The AUC within each group, averaged over groups; what tells groups apart, such as a user's habit, earns nothing.

    GAUC = sum over groups of impressions_u * AUC_u / sum over groups of impressions_u

    Groups without a click, or with nothing but clicks, have no AUC and are left out of both sums.

    Args:
        score_N: any scores, higher where a click is likelier; no nan.
        label_N: 0 or 1.
        group_N: 0..U - 1, whose impression it is.
    Source: Zhu et al., "Optimized cost per click in Taobao display advertising", KDD 2017, sec. 4.2.
    """

    def __init__(self, score_N: np.ndarray, label_N: np.ndarray, group_N: np.ndarray) -> None:
        num_groups = int(group_N.max(initial=-1)) + 1
        order_N = np.lexsort((score_N, group_N))
        score_N, group_N = np.asarray(score_N)[order_N], group_N[order_N]
        is_click_N = np.asarray(label_N)[order_N] > 0
        is_new_N = np.append(True, (score_N[1:] != score_N[:-1]) | (group_N[1:] != group_N[:-1]))[: len(score_N)]
        begin_G = np.flatnonzero(is_new_N)
        group_G = group_N[begin_G]
        click_G = np.add.reduceat(is_click_N.astype(np.float64), begin_G) if len(begin_G) else np.empty(0)
        other_G = np.diff(np.append(begin_G, len(score_N))) - click_G
        click_U, other_U = (np.bincount(group_G, of_G, num_groups) for of_G in (click_G, other_G))
        before_U = np.cumsum(other_U) - other_U
        below_G = np.cumsum(other_G) - other_G - before_U[group_G]
        won_U = np.bincount(group_G, click_G * (below_G + other_G / 2), num_groups)
        pairs_U = click_U * other_U
        self._auc_U = np.divide(won_U, pairs_U, out=np.zeros(num_groups), where=pairs_U > 0)
        self._rows_U = np.where(pairs_U > 0, click_U + other_U, 0.0)

    def value(self, count_U: np.ndarray | None = None) -> float:
        """In [0, 1]; nan if no group has clicks and others.

        Args:
            count_U: how often each group counts; None for once.
        """
        weight_U = self._rows_U if count_U is None else self._rows_U * count_U
        return float(weight_U @ self._auc_U / weight_U.sum()) if weight_U.any() else float("nan")

    @property
    def num_measured(self) -> int:
        """Groups with clicks and others."""
        return int(np.count_nonzero(self._rows_U))


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
