"""An exported run evaluated on the request log of another one."""

from __future__ import annotations

from typing import Any

import numpy as np

from pipelines.ope.estimators import EstimateError
from pipelines.ope.other_policy import OtherPolicy
from pipelines.ope.reward_model import folds, reward_tables
from pipelines.ope.shown_slates import ShownSlates, chunks, padded
from pipelines.ope.slate_value import JudgedSlates, slate_values

# B logged requests of a user  k places of a slate  K candidates  I shown items  F folds
_USERS_AT_ONCE = 64
_ERRORS_OFF, _ROUNDING = 5, 1e-3
"""Standard errors, and float32, by which the mean weight of the first place may differ from the covered share."""
_NEVER_SHOWN = -1
"""Item number of what the log never shows: the last one of the reward table, whose ratio is 1."""


def evaluate_logged(
    shown: ShownSlates, reward_Bk: np.ndarray, policy: OtherPolicy, cuts: tuple[int, ...], level: float, seed: int
) -> dict[str, Any]:
    """What the policy would have earned with the first places of these slates.

    Args:
        shown: those of `usable_rows`.
        reward_Bk: of each place; 0 pads.
        cuts: numbers of places.
    Raises: EstimateError if the policy knows what came after the requests, or there is no overlap.
    """
    if (too_early := np.count_nonzero(shown.received_B < policy.as_of)) > 0:
        raise EstimateError(
            f"the evaluated run knows its users up to {np.datetime64(policy.as_of, 's')} UTC, and {too_early:,} of "
            f"{len(shown):,} requests came before: it would be judged by what it has seen; make it from earlier logs, "
            "or take a later part of the request log"
        )
    judged, covered = judged_slates(shown, reward_Bk, policy, seed)
    first_B = judged.chance_Bk[:, 0] / judged.propensity_Bk[:, 0]
    off = abs(float(first_B.mean()) - covered)
    return {
        "slates": len(shown),
        "users": int(judged.group_B.max()) + 1,
        "level": level,
        "seed": seed,
        "covered": covered,
        "weights_add_up": bool(off <= _ERRORS_OFF * first_B.std() / len(shown) ** 0.5 + _ROUNDING),
        "places": slate_values(judged, cuts, level),
    }


def judged_slates(
    shown: ShownSlates, reward_Bk: np.ndarray, policy: OtherPolicy, seed: int
) -> tuple[JudgedSlates, float]:
    """What policy and reward model say of the slates, and the share of the policy's first places that the log could
    show: what stands outside is not in IPS and SNIPS, and only as the model sees it in the others."""
    number_of = {item: number for number, item in enumerate(sorted({item for one in shown.slate_ids for item in one}))}
    item_Bk = padded([[number_of[item] for item in slate] for slate in shown.slate_ids], _NEVER_SHOWN).astype(np.int64)
    reward_Bk = reward_Bk[:, : item_Bk.shape[1]]
    is_shown_Bk, group_B = item_Bk != _NEVER_SHOWN, shown.group_B
    fold_B = folds(group_B, seed)
    row_N, place_N = np.nonzero(is_shown_Bk)
    shape = item_Bk.shape[1], len(number_of) + 1
    table_FkI = reward_tables(place_N, item_Bk[is_shown_Bk], reward_Bk[is_shown_Bk], fold_B[row_N], shape)
    place_k = np.arange(shape[0])
    chance_Bk, direct_Bk = np.ones(item_Bk.shape), np.zeros(item_Bk.shape)
    covered_B = np.zeros(len(shown))
    for rows in chunks(len(shown), _USERS_AT_ONCE):
        some = shown.taken(np.arange(rows.start, rows.stop))
        said = policy.chances(some)
        width = said.given_Bk.shape[1]
        given_Bk1 = np.maximum(said.given_Bk, 0)[..., None]
        of_shown_Bk = np.take_along_axis(said.chance_BkK, given_Bk1, 2)[..., 0] * (said.given_Bk >= 0)
        chance_Bk[rows, :width] = np.where(is_shown_Bk[rows, :width], of_shown_Bk, 1)
        number_BK = np.array(
            [[number_of.get(item, _NEVER_SHOWN) for item in items] for items in said.item_ids_BK], np.int64
        ).reshape(said.item_ids_BK.shape)
        foretold_BkK = table_FkI[fold_B[rows, None, None], place_k[:width, None], number_BK[:, None, :]]
        direct_Bk[rows, :width] = (said.chance_BkK * foretold_BkK).sum(2) * is_shown_Bk[rows, :width]
        could_BK = [np.isin(ids_K, ids or []) for ids_K, ids in zip(said.item_ids_BK, some.candidate_ids, strict=True)]
        covered_B[rows] = (said.chance_BkK[:, 0] * np.array(could_BK)).sum(1)
    judged = JudgedSlates(
        reward_Bk=reward_Bk,
        propensity_Bk=shown.propensity_Bk(),
        chance_Bk=chance_Bk,
        model_Bk=table_FkI[fold_B[:, None], place_k, item_Bk] * is_shown_Bk,
        direct_Bk=direct_Bk,
        group_B=group_B,
    )
    return judged, float(covered_B.mean())
