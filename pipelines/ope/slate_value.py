"""What a policy's slates are worth by slates that another policy sampled, under the cascade assumption.

The log says how likely an item was at its place given the items above it, pi_0(a_j | a_<j). A user who goes through a
slate from the top decides on place j by what stands there and above, never by what comes below. Then the reward of
place j needs the ratio of the first j places alone,

    w_j = prod over i <= j of pi(a_i | a_<i) / pi_0(a_i | a_<i),

and the value of a slate is the sum over its places of the mean of w_j r_j. At the first place this is plain IPS. A
single factor, pi(a_j | a_<j) / pi_0(a_j | a_<j), would judge place j below the log's own upper places; and weights of
an item at a place whatever stands above, which assume that it does not matter, need probabilities that are not logged.

DR takes the model's rewards off at each place: w_{j-1} sum_a pi(a | a_<j) q_j(a) + w_j (r_j - q_j(a_j)).

Sources: McInerney et al., "Counterfactual evaluation of slate recommendations with sequential reward interactions",
KDD 2020; Kiyohara et al., "Doubly robust off-policy evaluation for ranking policies under the cascade behavior model",
WSDM 2022; Li et al., "Offline evaluation of ranking policies with click models", KDD 2018, for other assumptions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pipelines.ope.estimators import ESTIMATORS, EstimateError, Rounds, overlap
from pipelines.ope.intervals import Spread, interval

# B slates  k places
SLATE_ESTIMATORS = {name: estimator for name, estimator in ESTIMATORS.items() if name != "dm"}
"""Without the model alone: below the first place its mean needs w too."""


@dataclass(frozen=True, eq=False)
class JudgedSlates:
    """Logged slates, and what the evaluated policy and the reward model say of them; [B, k] each, 1 or 0 pads."""

    reward_Bk: np.ndarray
    propensity_Bk: np.ndarray
    """Chance of the shown item given those above it under the log's policy; 1 pads."""
    chance_Bk: np.ndarray
    """The same under the evaluated policy; 1 pads."""
    model_Bk: np.ndarray
    """Reward that the model foretells for the shown item; 0 pads."""
    direct_Bk: np.ndarray
    """Mean foretold reward of what the evaluated policy would show below the items above; 0 pads."""
    group_B: np.ndarray
    """0..U - 1: whose slates they are, which depend on each other."""


def place_rounds(slates: JudgedSlates) -> list[Rounds]:
    """One a place.

    Raises: EstimateError if a propensity is 0.
    """
    if not (slates.propensity_Bk > 0).all():
        row, place = np.argwhere(~(slates.propensity_Bk > 0))[0].tolist()
        raise EstimateError(
            f"slate {row}, place {place + 1}: its propensity must be above 0, got {slates.propensity_Bk[row, place]}: "
            "what was shown had no chance to be; the log is damaged, or not of `cascade serve`"
        )
    weight_Bk = np.cumprod(slates.chance_Bk / slates.propensity_Bk, axis=1)
    above_Bk = np.hstack([np.ones((len(weight_Bk), 1)), weight_Bk[:, :-1]])
    columns = (slates.reward_Bk, weight_Bk, slates.model_Bk, above_Bk * slates.direct_Bk)
    return [Rounds(*(column[:, place] for column in columns)) for place in range(weight_Bk.shape[1])]


def slate_values(slates: JudgedSlates, cuts: tuple[int, ...], level: float = 0.95) -> list[dict[str, Any]]:
    """For each cut, what the first places earn together: the log's policy, the evaluated one, and their difference.

    Nothing is said of a cut at which no logged slate goes on as the evaluated policy might.

    Raises: EstimateError without overlap.
    """
    rounds = place_rounds(slates)
    if not rounds[0].weight_N.any():
        raise EstimateError(
            f"none of {len(slates.group_B):,} logged slates begins with an item that the evaluated policy might show "
            "first: there is no overlap; give it a temperature (--serving.ordering.temperature), or log more"
        )
    report = []
    for cut in sorted({min(one, len(rounds)) for one in cuts}):
        first = rounds[:cut]
        if not first[-1].weight_N.any():
            report.append({"places": cut, "effective_sample_size": 0.0, "rewards": None})
            continue
        logged_B = np.sum([one.reward_N for one in first], axis=0)
        estimates, differences = {}, {}
        for name, estimator in SLATE_ESTIMATORS.items():
            influence_B = np.sum([estimator(one) for one in first], axis=0)
            estimates[name] = _interval(influence_B, slates.group_B, level)
            differences[name] = _interval(influence_B - logged_B, slates.group_B, level)
        report.append(
            overlap(first[-1].weight_N)
            | {
                "places": cut,
                "rewards": float(logged_B.sum()),
                "logged": _interval(logged_B, slates.group_B, level),
                "estimates": estimates,
                "differences": differences,
            }
        )
    return report


def _interval(influence_B: np.ndarray, group_B: np.ndarray, level: float) -> dict[str, float]:
    return vars(interval(float(influence_B.mean()), Spread.of(influence_B, group_B), level=level))
