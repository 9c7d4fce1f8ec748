"""Estimators of a policy's value from rounds that another policy decided. Pure functions over arrays.

Each gives one influence value a round: their mean is the estimate, and their spread is its error (`intervals.py`).
Values of several places of a slate add up, and so do their influence values.

Sources: Dudik, Langford & Li, ICML 2011 (DR); Swaminathan & Joachims, NeurIPS 2015 (SNIPS); Wang, Agarwal & Dudik,
ICML 2017 (switch); Su, Dimakopoulou, Krishnamurthy & Dudik, ICML 2020 (shrinkage, and how its strength is chosen).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from features.errors import CascadeError

# N rounds  G grid
NUM_GRID = 30
NO_LIMIT = np.inf


class EstimateError(CascadeError, ValueError):
    """The rounds do not say what the policy is worth."""


@dataclass(frozen=True, eq=False)
class Rounds:
    """What is known of each round, [N] each."""

    reward_N: np.ndarray
    weight_N: np.ndarray
    """Probability of what was shown under the evaluated policy over that under the logging policy."""
    model_N: np.ndarray
    """Reward that the model foretells for what was shown."""
    direct_N: np.ndarray
    """Mean reward that the model foretells for what the evaluated policy would show."""

    def __post_init__(self) -> None:
        for name in ("reward_N", "weight_N", "model_N", "direct_N"):
            value_N = getattr(self, name)
            if value_N.shape != self.reward_N.shape or not np.isfinite(value_N).all():
                raise EstimateError(
                    f"{name} must hold {self.reward_N.shape} finite numbers, as reward_N, got shape {value_N.shape} "
                    f"with {np.count_nonzero(~np.isfinite(value_N))} that are not; a logged propensity of 0 makes such"
                )
        if (self.weight_N < 0).any():
            raise EstimateError("weight_N must not be negative: it is a ratio of two probabilities")


def ips(rounds: Rounds) -> np.ndarray:
    """[N] w r: unbiased where the log's policy shows everything that the evaluated one shows."""
    return rounds.weight_N * rounds.reward_N


def snips(rounds: Rounds) -> np.ndarray:
    """[N] about sum(w r) / sum(w): shifts with the rewards, stays in their range; its bias vanishes as 1 / N.

    Raises: EstimateError if all weights are 0.
    """
    weight_N, mean_weight = rounds.weight_N, rounds.weight_N.mean()
    if not mean_weight > 0:
        raise EstimateError("no round shows anything that the evaluated policy would show; there is no overlap")
    value = (weight_N @ rounds.reward_N) / weight_N.sum()
    return value + weight_N * (rounds.reward_N - value) / mean_weight


def direct_method(rounds: Rounds) -> np.ndarray:
    """[N] what the model says: as right as the model, which the interval does not know."""
    return rounds.direct_N


def doubly_robust(rounds: Rounds) -> np.ndarray:
    """[N] the model, with its error on what was shown corrected by w."""
    return rounds.direct_N + rounds.weight_N * (rounds.reward_N - rounds.model_N)


def switch_dr(rounds: Rounds, threshold: float) -> np.ndarray:
    """[N] DR where w is at most the threshold, the model alone where it is larger."""
    return _corrected(rounds, _switched(rounds.weight_N, threshold))


def shrunk_dr(rounds: Rounds, strength: float) -> np.ndarray:
    """[N] DR with w strength / (w^2 + strength) for w: DR for a large strength, the model for 0."""
    return _corrected(rounds, _shrunk(rounds.weight_N, strength))


def chosen_threshold(rounds: Rounds) -> float:
    """The threshold of switch-DR with the least estimated squared error, of quantiles of w; NO_LIMIT among them."""
    grid = np.quantile(rounds.weight_N, np.linspace(0.5, 1, NUM_GRID))
    return _least_error(rounds, _switched, [*np.unique(grid).tolist(), NO_LIMIT])


def chosen_strength(rounds: Rounds) -> float:
    """The strength of shrunk DR with the least estimated squared error; NO_LIMIT among them."""
    top = max(float(rounds.weight_N.max()), 1.0) ** 2
    return _least_error(rounds, _shrunk, [*np.geomspace(1e-2, 1e2 * top, NUM_GRID).tolist(), NO_LIMIT])


def effective_sample_size(weight_N: np.ndarray) -> float:
    """(sum w)^2 / sum w^2: the rounds of one's own that would say as much; 0 without overlap. Source: Kish, 1965."""
    squares = float(weight_N @ weight_N)
    return float(weight_N.sum()) ** 2 / squares if squares else 0.0


def overlap(weight_N: np.ndarray) -> dict[str, float]:
    """What the weights say of how far the estimates can be trusted."""
    return {
        "effective_sample_size": effective_sample_size(weight_N),
        "mean_weight": float(weight_N.mean()),
        "largest_weight": float(weight_N.max()),
        "largest_share": float(weight_N.max() / max(weight_N.sum(), np.finfo(np.float64).tiny)),
    }


ESTIMATORS: dict[str, Callable[[Rounds], np.ndarray]] = {
    "ips": ips,
    "snips": snips,
    "dm": direct_method,
    "dr": doubly_robust,
    "switch-dr": lambda rounds: _as_wide_as_dr(rounds, switch_dr(rounds, chosen_threshold(rounds))),
    "shrunk-dr": lambda rounds: _as_wide_as_dr(rounds, shrunk_dr(rounds, chosen_strength(rounds))),
}
"""By name. Rounds cannot show the bias that changed weights bring, so the last two have the spread of DR: with their
own, intervals held the truth in as few as 18 % of made logs (docs/ope.md)."""


def _as_wide_as_dr(rounds: Rounds, influence_N: np.ndarray) -> np.ndarray:
    """[N] the mean of the one, the spread of DR."""
    dr_N = doubly_robust(rounds)
    return dr_N + (influence_N.mean() - dr_N.mean())


def _corrected(rounds: Rounds, weight_N: np.ndarray) -> np.ndarray:
    return rounds.direct_N + weight_N * (rounds.reward_N - rounds.model_N)


def _switched(weight_N: np.ndarray, threshold: float) -> np.ndarray:
    return np.where(weight_N <= threshold, weight_N, 0.0)


def _shrunk(weight_N: np.ndarray, strength: float) -> np.ndarray:
    if strength == NO_LIMIT:
        return weight_N
    return weight_N * strength / np.maximum(weight_N**2 + strength, np.finfo(np.float64).tiny)


def _least_error(rounds: Rounds, weighed: Callable[[np.ndarray, float], np.ndarray], grid: list[float]) -> float:
    """Variance plus squared bias of the changed weights, as the rounds show it (Su et al., sec. 5)."""
    residual_N = rounds.reward_N - rounds.model_N
    errors = []
    for one in grid:
        weight_N = weighed(rounds.weight_N, one)
        bias = ((weight_N - rounds.weight_N) * residual_N).mean()
        errors.append((rounds.direct_N + weight_N * residual_N).var() / len(residual_N) + bias**2)
    return grid[int(np.argmin(errors))]
