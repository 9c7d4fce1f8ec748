"""Permutation importance: how much worse a ranker gets when a feature no longer belongs to its row.

A feature that the model does not use, or that others replace, loses nothing. Each repeat shuffles anew and measures on
a bootstrap resample, so that the spread of the drops is that of both.

Source: Breiman, "Random forests", Machine Learning 2001, section 10; Fisher, Rudin & Dominici, "All models are wrong,
but many are useful", JMLR 2019 (model reliance).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ranking.clicks.metrics import RankedLabels, log_losses

# N impressions  B lists  K items of a list
Columns = Mapping[str, np.ndarray]
Scores = Callable[[Columns], np.ndarray]
"""What the model says of columns by name."""


@dataclass(frozen=True)
class Drop:
    """What the loss of one feature costs, by one measure; positive where the model needs the feature."""

    feature: str
    measure: str
    mean: float
    error: float
    """Standard error: the deviation over repeats, of shuffle and sample."""

    @property
    def interval(self) -> tuple[float, float]:
        """Of 95%, from the normal distribution."""
        return self.mean - 1.96 * self.error, self.mean + 1.96 * self.error


def click_importance(
    scores: Scores, columns: Columns, label_N: np.ndarray, features: Sequence[str], num_repeats: int, seed: int
) -> list[Drop]:
    """The fall of the AUC and the rise of the log loss (nats), for each feature.

    Args:
        scores: probabilities [N].
        columns: by name, [N, ...] each.
        num_repeats: 2 or more.
    """
    random = np.random.default_rng(seed)

    def measured(columns: Columns) -> Callable[[np.ndarray], dict[str, float]]:
        probability_N = scores(columns)
        ranked, loss_N = RankedLabels(probability_N, label_N), log_losses(probability_N, label_N)
        return lambda count_N: {"auc": ranked.auc(count_N), "log_loss": -float(np.average(loss_N, weights=count_N))}

    def shuffled(name: str) -> np.ndarray:
        return columns[name][random.permutation(len(label_N))]

    return _drops(measured, columns, shuffled, features, len(label_N), num_repeats, random)


def candidate_importance(
    scores: Scores,
    columns: Columns,
    is_taken_BK: np.ndarray,
    is_shown_BK: np.ndarray,
    user_B: np.ndarray,
    features: Sequence[str],
    is_per_candidate: Callable[[str], bool],
    num_repeats: int,
    seed: int,
) -> list[Drop]:
    """The fall of NDCG@10 and of the reciprocal rank of the first taken item within lists, for each feature.

    A feature of candidates is shuffled within each list, one of the user among the lists. Resampled are users: a user's
    lists resemble each other.

    Args:
        scores: [B, K].
        columns: by name, [B, ...], or [B, K, ...] of candidates.
        is_taken_BK, is_shown_BK: 1 where an item was taken, and where there is one.
    """
    random = np.random.default_rng(seed)
    users, place_B = np.unique(user_B, return_inverse=True)

    def measured(columns: Columns) -> Callable[[np.ndarray], dict[str, float]]:
        of_lists = list_measures(scores(columns), is_taken_BK, is_shown_BK)
        return lambda count_U: {
            name: float(np.average(value_B, weights=count_U[place_B])) for name, value_B in of_lists.items()
        }

    def shuffled(name: str) -> np.ndarray:
        values = columns[name]
        if not is_per_candidate(name):
            return values[random.permutation(len(values))]
        key_BK = np.where(is_shown_BK > 0, random.random(is_shown_BK.shape), 2.0)  # empty places stay behind
        from_BK, to_BK = np.argsort(key_BK, axis=1), np.argsort(is_shown_BK <= 0, axis=1, kind="stable")
        result = values.copy()
        rows_B1 = np.arange(len(values))[:, None]
        result[rows_B1, to_BK] = values[rows_B1, from_BK]
        return result

    return _drops(measured, columns, shuffled, features, len(users), num_repeats, random)


def list_measures(score_BK: np.ndarray, is_taken_BK: np.ndarray, is_shown_BK: np.ndarray) -> dict[str, np.ndarray]:
    """[B] NDCG@10 with the list's taken items as the relevant ones, and the reciprocal rank of the first of them.

    Equal scores count as if the taken item came last of them; a list without a taken item has 0.
    """
    shown_BK = is_shown_BK > 0
    taken_BK = (is_taken_BK > 0) & shown_BK
    order_BK = np.lexsort((taken_BK, -np.where(shown_BK, score_BK, -np.inf)), axis=1)
    gain_BK = np.take_along_axis(taken_BK, order_BK, 1)
    discount_K = 1 / np.log2(np.arange(2, gain_BK.shape[1] + 2)) * (np.arange(gain_BK.shape[1]) < 10)
    ideal_B = np.cumsum(discount_K)[np.maximum(gain_BK.sum(1), 1) - 1]
    has_B = gain_BK.any(1)
    reciprocal_B = np.where(has_B, 1 / (gain_BK.argmax(1) + 1), 0.0)
    return {"ndcg@10": gain_BK @ discount_K / ideal_B, "mrr": reciprocal_B}


def _drops(
    measured: Callable[[Columns], Callable[[np.ndarray], dict[str, float]]],
    columns: Columns,
    shuffled: Callable[[str], np.ndarray],
    features: Sequence[str],
    num_units: int,
    num_repeats: int,
    random: np.random.Generator,
) -> list[Drop]:
    counts = [np.bincount(random.integers(0, num_units, num_units), minlength=num_units) for _ in range(num_repeats)]
    whole = measured(columns)
    before = [whole(count) for count in counts]

    def of_feature(name: str) -> Iterator[Drop]:
        after = [measured({**columns, name: shuffled(name)})(count) for count in counts]
        for measure in before[0]:
            drop_R = np.array([one[measure] - other[measure] for one, other in zip(before, after, strict=True)])
            yield Drop(name, measure, float(drop_R.mean()), float(drop_R.std(ddof=1)))

    return [drop for name in features for drop in of_feature(name)]
