"""One list of candidates from what several sources propose.

The rule: a candidate's score is a weighted sum of its reciprocal ranks,

    score(u, i) = sum over sources s of w_s OFFSET / (OFFSET + rank_s(u, i)),   rank 0 is the source's best,

where a source that does not propose it adds nothing; the highest score comes first, ties by item row. Of the first n
candidates at least `share` times n, rounded down, come from the reserved source, as long as it has any.

The weights are learned: on the validation part, from sources that have not seen it, they make it most likely that each
user's later items win against the user's other candidates (a conditional logit). They cannot be negative.

Source: Cormack, Clarke & Buettcher, "Reciprocal rank fusion outperforms Condorcet and individual rank learning
methods", SIGIR 2009; McFadden, "Conditional logit analysis of qualitative choice behavior", 1974.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numba
import numpy as np
from scipy.optimize import minimize

from retrieval.best_first import Scratch, item_of, score_of, smallest, sort_key
from retrieval.metrics import RelevantItems
from retrieval.sources.source import NO_ITEM, Proposals

# B users  S sources  Q proposals of a source  K merged candidates  P distinct pairs of user and item
OFFSET = 60.0
NO_SOURCE = -1
_PLACES = Scratch(np.int32)
L2 = 1.0
"""Weight of half the squared weights, each in deviations of its reciprocal rank, beside the log likelihood."""


@dataclass(frozen=True, eq=False)
class Merged:
    """Candidates of B users with what each source thought of them."""

    row_BK: np.ndarray
    """int64 item rows, best first, none twice; NO_ITEM behind the last."""
    score_BK: np.ndarray
    """float32 merged score, 0 where there is no item."""
    source_BKS: np.ndarray
    """float32 reciprocal rank in (0, 1] at each source, 0 where it did not propose the item."""


@dataclass(frozen=True)
class Merge:
    """Args:
    weights: [S] of the sources, in their order; 0 or more.
    reserved: place of the source that has a share of its own; None for none.
    share: of the candidates, in [0, 1).
    """

    weights: tuple[float, ...]
    reserved: int | None = None
    share: float = 0.0

    def __call__(self, proposed_BSQ: np.ndarray, num: int) -> Merged:
        """The first num candidates of each user; row b depends on user b only.

        Args:
            proposed_BSQ: int64 item rows, each source's best first; NO_ITEM pads.
        """
        num_users, num_sources, width = proposed_BSQ.shape
        merged = Merged(
            np.full((num_users, num), NO_ITEM, np.int64),
            np.zeros((num_users, num), np.float32),
            np.zeros((num_users, num, num_sources), np.float32),
        )
        place_I = _PLACES.of(int(proposed_BSQ.max(initial=NO_ITEM)) + 1)
        _fill(
            np.ascontiguousarray(proposed_BSQ, np.int64),
            reciprocal_rank(np.arange(width)).astype(np.float32),
            np.asarray(self.weights, np.float32),
            NO_SOURCE if self.reserved is None or not self.share else self.reserved,
            self.share or 1.0,
            place_I,
            merged.row_BK,
            merged.score_BK,
            merged.source_BKS,
        )
        return merged


def reciprocal_rank(rank: np.ndarray) -> np.ndarray:
    """In (0, 1]; rank 0 is the best."""
    return OFFSET / (OFFSET + rank)


@numba.njit(nogil=True, cache=True)
def _fill(proposed_BSQ, reciprocal_Q, weight_S, reserved, share, place_I, row_BK, score_BK, source_BKS):
    num_users, num_sources, width = proposed_BSQ.shape
    num = row_BK.shape[1]
    item_P = np.empty(num_sources * width, np.int64)
    said_PS = np.empty((num_sources * width, num_sources), np.float32)
    for user in range(num_users):
        num_items = 0
        for source in range(num_sources):
            for rank in range(width):
                item = proposed_BSQ[user, source, rank]
                if item == NO_ITEM:
                    continue
                if not place_I[item]:
                    item_P[num_items] = item
                    said_PS[num_items] = 0
                    num_items += 1
                    place_I[item] = num_items
                said_PS[place_I[item] - 1, source] = reciprocal_Q[rank]
        key_P = np.empty(num_items, np.int64)
        for place in range(num_items):
            score = np.float32(0)
            for source in range(num_sources):
                score += weight_S[source] * said_PS[place, source]
            key_P[place] = sort_key(score, item_P[place])
        order = _first(key_P, place_I, said_PS, reserved, share, num)
        for slot in range(len(order)):
            item = item_of(order[slot])
            row_BK[user, slot], score_BK[user, slot] = item, score_of(order[slot])
            source_BKS[user, slot] = said_PS[place_I[item] - 1]
        for item in item_P[:num_items]:
            place_I[item] = 0


@numba.njit(nogil=True, cache=True)
def _first(key_P, place_I, said_PS, reserved, share, num):
    """Keys of the first num candidates: the smallest, with the reserved source's moved up to where its share wants
    them. The j-th of those must come among the first ceil(j / share); the j - 1 before it stand there as well."""
    if reserved == NO_SOURCE:
        return smallest(key_P, num)
    first = smallest(key_P, num)
    own = np.empty(len(key_P), np.int64)
    num_own = 0
    for key in key_P:
        if said_PS[place_I[item_of(key)] - 1, reserved] > 0:
            own[num_own] = key
            num_own += 1
    own = np.sort(own[:num_own])
    behind = own[own > first[-1]] if len(first) else own[:0]
    keys = np.concatenate((first, behind))
    wanted = np.arange(len(keys)).astype(np.float64)
    number = 0
    for place in range(len(keys)):
        if number < len(own) and keys[place] == own[number]:
            number += 1
            latest = math.ceil(number / share - 1e-9) - number
            wanted[place] = min(wanted[place], latest - 0.5)
    return keys[np.argsort(wanted, kind="mergesort")][:num]


def side_by_side(proposals: Sequence[Proposals]) -> np.ndarray:
    """[B, S, Q] item rows of what the sources propose to the same users; NO_ITEM pads."""
    width = max(one.row_BK.shape[1] for one in proposals)
    return np.stack([Proposals.padded(one.row_BK, one.score_BK, width).row_BK for one in proposals], axis=1)


def fitted_weights(proposals: Sequence[Proposals], relevant: RelevantItems) -> tuple[float, ...]:
    """The weights under which each user's relevant items are the most likely of the user's candidates.

    Every user who has one among the candidates counts once. All weights are 1 where nobody has.

    Args:
        proposals: of each source, for the users of `relevant`.
    """
    user_P, item_P, said_PS = _pairs(proposals)
    stride = max(int(item_P.max(initial=0)), int(relevant.item_row.max(initial=0))) + 1
    is_hit_P = np.isin(user_P * stride + item_P, relevant.user * stride + relevant.item_row)
    num_hits_B = np.bincount(user_P, is_hit_P, relevant.num_users)
    useful_P = num_hits_B[user_P] > 0
    if not useful_P.any():
        return (1.0,) * len(proposals)
    user_P, said_PS, is_hit_P = user_P[useful_P], said_PS[useful_P], is_hit_P[useful_P]
    deviation_S = np.maximum(said_PS.std(axis=0), 1e-6)
    share_P = is_hit_P / num_hits_B[user_P]
    start_B = np.flatnonzero(np.diff(user_P, prepend=-1))
    place_P = np.repeat(np.arange(len(start_B)), np.diff(np.append(start_B, len(user_P))))
    scaled_PS = said_PS / deviation_S

    def loss(weight_S: np.ndarray) -> tuple[float, np.ndarray]:
        score_P = scaled_PS @ weight_S
        score_P -= np.maximum.reduceat(score_P, start_B)[place_P]
        exp_P = np.exp(score_P)
        total_B = np.add.reduceat(exp_P, start_B)
        likelihood = float(share_P @ (score_P - np.log(total_B)[place_P]))
        gradient_S = scaled_PS.T @ (share_P - exp_P / total_B[place_P])
        return L2 / 2 * float(weight_S @ weight_S) - likelihood, L2 * weight_S - gradient_S

    bounds = [(0.0, None)] * len(proposals)
    found = minimize(loss, np.ones(len(proposals)), jac=True, method="L-BFGS-B", bounds=bounds)
    return tuple(float(weight) for weight in found.x / deviation_S)


def _pairs(proposals: Sequence[Proposals]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Users [P], ascending, item rows [P] and reciprocal ranks [P, S] of all distinct pairs proposed."""
    places = [np.nonzero(one.row_BK != NO_ITEM) for one in proposals]
    items = [one.row_BK[place] for one, place in zip(proposals, places, strict=True)]
    stride = max((int(item.max(initial=0)) for item in items), default=0) + 1
    keys = [user * stride + item for (user, _), item in zip(places, items, strict=True)]
    key_P = np.unique(np.concatenate(keys))
    said_PS = np.zeros((len(key_P), len(proposals)))
    for source, (key, (_, rank)) in enumerate(zip(keys, places, strict=True)):
        said_PS[np.searchsorted(key_P, key), source] = reciprocal_rank(rank)
    return *np.divmod(key_P, stride), said_PS
