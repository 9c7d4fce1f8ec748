"""Ordering the candidates of a user by more than the score: sampling, diversity, caps. Pure functions over arrays.

At every place of a slate the remaining items have a value,

    v(i) = (1 - diversity) u(i) - diversity range(u) max over the items above of cos(i, j),

where u is the score with its boosts and range(u) the distance from the best to the worst of the user's candidates: it
brings the similarity to the scale of the score. Items whose value of a capped attribute is used up are left out, unless
nothing else is left. Without a temperature the largest v comes next; with one, item i with the probability

    exp(v(i) / temperature) / sum over the remaining j of exp(v(j) / temperature),

which is the propensity that the reply carries: the chance of the item at its place, given the items above it.

Sources: Carbonell & Goldstein, SIGIR 1998 (MMR); Vieira, "Gumbel-max trick and weighted reservoir sampling", 2014, and
Kool et al., ICML 2019 (Gumbel top-k).
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b

import numba
import numpy as np

# B users  K candidates  k places of the slate  I items  D item vectors  G capped attributes
NO_ITEM = -1
NO_GROUP = -1


@dataclass(frozen=True, eq=False)
class Items:
    """What ordering needs to know of all items."""

    boost_I: np.ndarray
    """float32, added to the score."""
    unit_ID: np.ndarray
    """float32 vectors of length 1."""
    group_GI: np.ndarray
    """int64 value of each capped attribute from 0; NO_GROUP where it is not known, which is not capped."""
    cap_G: np.ndarray
    """int64: most items of one value."""


@dataclass(frozen=True, eq=False)
class Slates:
    """What `ordered` chose."""

    place_Bk: np.ndarray
    """int64 which candidate stands at each place; -1 pads."""
    propensity_Bk: np.ndarray
    """float32: the chance of the item at its place given those above it; 0 pads."""
    num_lifted_B: np.ndarray
    """int64: places at which a cap was lifted, because nothing else was left."""


def ordered(
    row_BK: np.ndarray,
    score_BK: np.ndarray,
    k_B: np.ndarray,
    items: Items,
    temperature_B: np.ndarray,
    diversity_B: np.ndarray,
    seed_B: np.ndarray,
    user_B: np.ndarray,
) -> Slates:
    """The slate of each user; row b depends on user b only.

    Args:
        row_BK: item rows, none twice; NO_ITEM in empty slots.
        score_BK: float32; nan and -inf come last.
        seed_B: int64; with the user's id it decides all chance.
        user_B: object, ids.
    """
    shape = len(row_BK), int(k_B.max(initial=0))
    slates = Slates(np.full(shape, -1, np.int64), np.zeros(shape, np.float32), np.zeros(len(row_BK), np.int64))
    for user, row_K in enumerate(row_BK):
        filled = np.flatnonzero(row_K != NO_ITEM)
        num = min(int(k_B[user]), len(filled))
        temperature, diversity = float(temperature_B[user]), float(diversity_B[user])
        noise = _NO_NOISE
        if temperature > 0 and num:
            # A penalty that depends on the items above needs fresh noise at each place. Without one, the largest of
            # the noisy values says nothing of the others' order, so one draw serves all places, caps or not.
            noise = gumbel(int(seed_B[user]), user_B[user], (num if diversity > 0 else 1, len(filled)))
        slates.num_lifted_B[user] = _fill(
            row_K[filled],
            usable(score_BK[user, filled]) + items.boost_I[row_K[filled]].astype(np.float64),
            temperature,
            diversity,
            noise,
            items.unit_ID,
            items.group_GI,
            items.cap_G,
            slates.place_Bk[user, :num],
            slates.propensity_Bk[user, :num],
            _CHOOSES,
            _NO_CHANCES,
        )
        slates.place_Bk[user, :num] = filled[slates.place_Bk[user, :num]]
    return slates


def place_chances(
    row_BK: np.ndarray,
    score_BK: np.ndarray,
    given_Bk: np.ndarray,
    items: Items,
    temperature_B: np.ndarray,
    diversity_B: np.ndarray,
) -> np.ndarray:
    """[B, k, K] chance of each candidate at each place, given those that stand above it: what `ordered` would do there.

    Args:
        given_Bk: which candidate stands at a place; -1 for none of them, below which all chances are 0.
    """
    chance_BkK = np.zeros((*given_Bk.shape, row_BK.shape[1]))
    for user, row_K in enumerate(row_BK):
        filled = np.flatnonzero(row_K != NO_ITEM)
        num = min(given_Bk.shape[1], len(filled))
        place_of_K = np.full(len(row_K) + 1, -1)  # the last one stands for none
        place_of_K[filled] = np.arange(len(filled))
        chance_kK = np.zeros((num, len(filled)))
        _fill(
            row_K[filled],
            usable(score_BK[user, filled]) + items.boost_I[row_K[filled]].astype(np.float64),
            float(temperature_B[user]),
            float(diversity_B[user]),
            np.zeros((1, len(filled))),
            items.unit_ID,
            items.group_GI,
            items.cap_G,
            np.empty(num, np.int64),
            np.empty(num, np.float32),
            place_of_K[given_Bk[user, :num]],
            chance_kK,
        )
        chance_BkK[user, :num, filled] = chance_kK.T
    return chance_BkK


def usable(score_K: np.ndarray) -> np.ndarray:
    """float64 with what is no number far below all that are: such items come last, and are hardly ever sampled."""
    is_number = np.isfinite(score_K)
    number = score_K[is_number].astype(np.float64)
    low, high = (number.min(), number.max()) if len(number) else (0.0, 0.0)
    reach = max(high - low, 1.0)
    return np.where(is_number, score_K, np.where(score_K == np.inf, high + reach, low - reach)).astype(np.float64)


def gumbel(seed: int, user: str, shape: tuple[int, int]) -> np.ndarray:
    """Standard Gumbel noise that depends on the seed and the user alone."""
    of_user = int.from_bytes(blake2b(user.encode(), digest_size=8).digest(), "little")
    key = np.array([seed, of_user], np.uint64)
    return np.random.Generator(np.random.Philox(key=key)).gumbel(size=shape)


_NO_NOISE = np.empty((0, 0))
_CHOOSES, _NO_CHANCES = np.empty(0, np.int64), np.empty((0, 0))


@numba.njit(nogil=True, cache=True)
def _fill(
    row_K,
    utility_K,
    temperature,
    diversity,
    noise,
    unit_ID,
    group_GI,
    cap_G,
    place_k,
    propensity_k,
    given_k,
    chance_kK,
):
    """Fill `place_k` and `propensity_k`; where `given_k` has places, follow it and fill `chance_kK` instead."""
    num, num_groups = len(row_K), len(cap_G)
    if not len(place_k):
        return 0
    reach = utility_K.max() - utility_K.min()
    likeness_K = np.zeros(num)
    is_left_K = np.ones(num, np.bool_)
    used = np.zeros((num_groups, num), np.int64)  # by the place of the first candidate that has the value
    first_GK = np.empty((num_groups, num), np.int64)
    for group in range(num_groups):
        for one in range(num):
            value = group_GI[group, row_K[one]]
            first_GK[group, one] = NO_GROUP
            if value != NO_GROUP:
                for other in range(one + 1):
                    if group_GI[group, row_K[other]] == value:
                        first_GK[group, one] = other
                        break
    num_lifted = 0
    value_K = np.empty(num)
    is_open_K = np.empty(num, np.bool_)
    for place in range(len(place_k)):
        num_open = 0
        for one in range(num):
            value_K[one] = (1 - diversity) * utility_K[one] - diversity * reach * likeness_K[one]
            is_open_K[one] = is_left_K[one]
            for group in range(num_groups):
                first = first_GK[group, one]
                if first != NO_GROUP and used[group, first] >= cap_G[group]:
                    is_open_K[one] = False
            num_open += is_open_K[one]
        if not num_open:
            is_open_K[:] = is_left_K
            num_lifted += 1
        best, best_value, largest = -1, 0.0, -np.inf
        for one in range(num):
            if not is_open_K[one]:
                continue
            noisy = value_K[one]
            largest = max(largest, noisy)
            if temperature > 0:
                noisy = noisy / temperature + noise[place % len(noise), one]
            if best < 0 or noisy > best_value or (noisy == best_value and row_K[one] < row_K[best]):
                best, best_value = one, noisy
        propensity_k[place] = 1
        total = 0.0
        if temperature > 0:
            for one in range(num):
                if is_open_K[one]:
                    total += np.exp((value_K[one] - largest) / temperature)
            propensity_k[place] = np.exp((value_K[best] - largest) / temperature) / total
        if len(given_k):
            for one in range(num):
                if is_open_K[one] and temperature > 0:
                    chance_kK[place, one] = np.exp((value_K[one] - largest) / temperature) / total
            if temperature == 0:
                chance_kK[place, best] = 1
            best = given_k[place]
            if best < 0:
                return num_lifted
        place_k[place] = best
        is_left_K[best] = False
        for group in range(num_groups):
            if first_GK[group, best] != NO_GROUP:
                used[group, first_GK[group, best]] += 1
        if diversity > 0:
            for one in range(num):
                if is_left_K[one]:
                    cosine = 0.0
                    for dim in range(unit_ID.shape[1]):
                        cosine += unit_ID[row_K[one], dim] * unit_ID[row_K[best], dim]
                    likeness_K[one] = cosine if place == 0 else max(likeness_K[one], cosine)
    return num_lifted
