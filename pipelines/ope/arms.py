"""The read-out of an A/B test from the request log: share of users with a reward in each arm."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.ope.confidence_sequence import Sequence, asymptotic, bounded, last
from pipelines.ope.shown_slates import ShownSlates
from pipelines.ope.user_entries import FEWEST, ComparisonError, ReadOut, entries

# B logged requests of a user  k places  U users in the order of their first request
STABLE = "stable"
_FEWEST_REWARDS = 0.5
"""In place of none, so that a ratio is defined; nothing is said of so few."""


def read_arms(shown: ShownSlates, reward_Bk: np.ndarray, experiment: str | None, read_out: ReadOut) -> dict[str, Any]:
    """The arms, their difference and ratio, and whether one may stop.

    Args:
        experiment: its name; None for the only one.
    Raises: ComparisonError if there are not two arms, or nobody's time is over.
    """
    arm_B, names = _arms(shown, experiment)
    user_B = shown.group_B
    num_of_AU = np.stack([np.bincount(user_B, arm_B == arm, user_B.max() + 1) for arm in (0, 1)])
    in_both_U = num_of_AU.all(0)
    rows = np.flatnonzero((arm_B >= 0) & ~in_both_U[user_B])
    if not len(rows):
        raise ComparisonError(
            f"all {in_both_U.sum():,} users are in both of {names}; an experiment keeps a user in one"
        )
    found = entries(shown.taken(rows), reward_Bk[rows].sum(1), float(shown.received_B[-1]), read_out)
    has_reward_U, is_candidate_U = (found.value_U > 0).astype(np.float64), arm_B[rows][found.row_U] == 1
    arms = [
        {"arm": name, "users": int(here.sum()), "with_reward": int(has_reward_U[here].sum())}
        for name, here in zip(names, (~is_candidate_U, is_candidate_U), strict=True)
    ]
    told = {"level": read_out.level, "planned": read_out.planned, "users_in_both_arms": int(in_both_U.sum())}
    return told | {"arms": arms} | compared(has_reward_U, is_candidate_U, read_out)


def compared(has_reward_U: np.ndarray, is_candidate_U: np.ndarray, read_out: ReadOut) -> dict[str, Any]:
    """What can be said after the last user."""
    difference, ratio, is_ready_U = sequences(has_reward_U, is_candidate_U, read_out.level, read_out.planned)
    said, is_ready = last(difference), bool(is_ready_U[-1])
    return {
        "difference": said,
        "lift": {name: float(np.exp(one) - 1) for name, one in last(ratio).items()},
        "exact_difference": exact_difference(has_reward_U, is_candidate_U, read_out.level),
        "is_ready": is_ready,
        "may_stop": is_ready and not said["low"] <= 0 <= said["high"],
    }


def sequences(
    has_reward_U: np.ndarray, is_candidate_U: np.ndarray, level: float, planned: int
) -> tuple[Sequence, Sequence, np.ndarray]:
    """After each user: difference of the arms' shares, logarithm of their ratio, and whether each arm has FEWEST users
    with a reward and as many without."""
    num_U = np.arange(1, len(has_reward_U) + 1)
    of_arm, kinds = [], []
    for here_U in (is_candidate_U, ~is_candidate_U):
        users_U, rewards_U = here_U.cumsum(), (has_reward_U * here_U).cumsum()
        share_U = np.maximum(rewards_U, _FEWEST_REWARDS) / np.maximum(users_U, 1)
        variance_U = np.maximum(share_U * (1 - share_U), 0) * num_U / np.maximum(users_U, 1)
        of_arm.append((share_U, variance_U))
        kinds += [rewards_U, users_U - rewards_U]
    (share_U, variance_U), (control_U, control_variance_U) = of_arm
    difference = asymptotic(share_U - control_U, np.sqrt(variance_U + control_variance_U), num_U, level, planned)
    deviation_U = np.sqrt(variance_U / share_U**2 + control_variance_U / control_U**2)
    ratio = asymptotic(np.log(share_U / control_U), deviation_U, num_U, level, planned)
    return difference, ratio, np.min(kinds, axis=0) >= FEWEST


def exact_difference(has_reward_U: np.ndarray, is_candidate_U: np.ndarray, level: float) -> dict[str, float] | None:
    """Without a normal approximation: both arms' bounded intervals, each of which misses half as often. None if an
    arm has nobody."""
    arms = has_reward_U[is_candidate_U], has_reward_U[~is_candidate_U]
    if not all(map(len, arms)):
        return None
    candidate, control = (last(bounded(one, (1 + level) / 2)) for one in arms)
    value = float(arms[0].mean() - arms[1].mean())
    return {"value": value, "low": candidate["low"] - control["high"], "high": candidate["high"] - control["low"]}


def _arms(shown: ShownSlates, experiment: str | None) -> tuple[np.ndarray, tuple[str, str]]:
    """[B] 0 control, 1 candidate, -1 neither; and their names."""
    there = sorted({arm for arm in shown.arm if arm})
    chosen = [arm for arm in there if experiment in (None, arm.rpartition("/")[0])]
    if len(chosen) != 2 or len({arm.rpartition("/")[0] for arm in chosen}) != 1:
        raise ComparisonError(
            f"needs two arms of one experiment, the log has {', '.join(there) or 'none'}; --experiment names one "
            "(what stands before the /), and `cascade deploy --canary SHARE` makes one"
        )
    control = next((arm for arm in chosen if arm.rpartition("/")[2] == STABLE), chosen[0])
    [candidate] = [arm for arm in chosen if arm != control]
    number_of = {control: 0, candidate: 1}
    return np.array([number_of.get(arm or "", -1) for arm in shown.arm]), (control, candidate)
