"""How a user's history and an item go together, and how an item stands among those in demand: arrays in and out.

Training and serving call the same functions. The features of a pair depend on that pair alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np

from features.schema import FIRST_KNOWN
from ranking.pair_features import POPULARITY_NAMES, SIMILARITIES, affinity_name, relative_name

# B users  K candidates  N history  I items  A attributes  L values of an item  V all values  D item vectors  P windows
NO_ITEM = -1
NUM_IN_DEMAND = 200
"""The most popular items of the moment: an item's numbers are given in their deviations from their mean."""
LIMIT = 5.0
"""Most deviations; an item that nobody had lies far from those in demand, and how far says little."""
IN_DEMAND_BY = 2
"""The window of the popularity by which they are chosen: a sixteenth of the log's span."""
LAST_N = 5
PRIOR = 5.0
"""Items of a history at which half of what it says is believed."""


def in_demand(popularity_IP: np.ndarray) -> np.ndarray:
    """Rows of the items in demand, the most popular first; ties by row.

    Args:
        popularity_IP: logs of the interactions in each window before a moment, the longest first.
    """
    demand_I = popularity_IP[:, IN_DEMAND_BY]
    return np.lexsort((np.arange(len(demand_I)), -demand_I))[:NUM_IN_DEMAND]


def relative_numbers(number_I: Mapping[str, np.ndarray], popularity_IP: np.ndarray) -> dict[str, np.ndarray]:
    """[I] of each number by the name of its feature, and of the popularity in each window: mean 0 and deviation 1 over
    the items in demand, at most LIMIT.

    Args:
        number_I: the items' numbers at a moment by name.
        popularity_IP: as for `in_demand`.
    """
    demanded = in_demand(popularity_IP)
    columns = dict(number_I) | {name: popularity_IP[:, place] for place, name in enumerate(POPULARITY_NAMES)}
    relative = {}
    for name, value_I in columns.items():
        among = value_I[demanded].astype(np.float64)
        scaled_I = (value_I - among.mean()) / max(float(among.std()), 1e-3)
        relative[relative_name(name)] = np.clip(scaled_I, -LIMIT, LIMIT).astype(np.float32)
    return relative


def similarities(row_BK: np.ndarray, history_BN: np.ndarray, unit_ID: np.ndarray) -> dict[str, np.ndarray]:
    """[B, K] SIMILARITIES of candidates with a history, shrunk where it is short; 0 without one.

    Args:
        row_BK: item rows; NO_ITEM gets the numbers of item 0.
        history_BN: item rows, the newest first; NO_ITEM pads.
        unit_ID: vectors of length 1.
    """
    found = [np.zeros(row_BK.shape, np.float32) for _ in SIMILARITIES]
    _fill_similarities(np.ascontiguousarray(row_BK), np.ascontiguousarray(history_BN), unit_ID, *found)
    return dict(zip(SIMILARITIES, found, strict=True))


@numba.njit(nogil=True, cache=True)
def _fill_similarities(row_BK, history_BN, unit_ID, mean_BK, last_BK, best_BK):
    length, dim = history_BN.shape[1], unit_ID.shape[1]
    past_ND, cosine_N = np.empty((length, dim), np.float32), np.empty(length, np.float32)
    item_D = np.empty(dim, np.float32)
    for user in range(len(row_BK)):
        num = 0
        for item in history_BN[user]:
            if item != NO_ITEM:
                past_ND[num] = unit_ID[item]
                num += 1
        if not num:
            continue
        belief, num_last = np.float32(num / (num + PRIOR)), min(num, LAST_N)
        for place in range(row_BK.shape[1]):
            item_D[:] = unit_ID[max(row_BK[user, place], 0)]
            _products(item_D, past_ND[:num], cosine_N)
            total, of_last, best = np.float32(0), np.float32(0), cosine_N[0]
            for past in range(num):
                total += cosine_N[past]
                if past < num_last:
                    of_last += cosine_N[past]
                best = max(best, cosine_N[past])
            mean_BK[user, place] = belief * (total / np.float32(num))
            last_BK[user, place] = belief * (of_last / np.float32(num_last))
            best_BK[user, place] = belief * best


@numba.njit(nogil=True, cache=True, fastmath=True)
def _products(item_D, past_ND, product_N):
    """Inner products with a history, four at a time. The compiler may reorder sums, but does so for all items alike."""
    dim, num = len(item_D), len(past_ND)
    for first in range(0, num - 3, 4):
        one_D, two_D, three_D, four_D = past_ND[first], past_ND[first + 1], past_ND[first + 2], past_ND[first + 3]
        one = two = three = four = np.float32(0)
        for place in range(dim):
            weight = item_D[place]
            one += weight * one_D[place]
            two += weight * two_D[place]
            three += weight * three_D[place]
            four += weight * four_D[place]
        product_N[first], product_N[first + 1] = one, two
        product_N[first + 2], product_N[first + 3] = three, four
    for past in range(num - num % 4, num):
        one, one_D = np.float32(0), past_ND[past]
        for place in range(dim):
            one += item_D[place] * one_D[place]
        product_N[past] = one


@dataclass(frozen=True, eq=False)
class Attributes:
    """A attributes of all items at a moment, side by side, so that an item's values lie together in memory."""

    names: tuple[str, ...]
    value_IL: np.ndarray
    """Encoded categories of one attribute after the other, each numbered behind those of the attributes before."""
    place_A: np.ndarray
    """[A + 1] where each attribute's values begin among the L."""
    first_A: np.ndarray
    """The number of each attribute's first category."""
    common_V: np.ndarray
    """How often the items in demand have each value, over their number."""


def attributes_at(values: Mapping[str, np.ndarray], demanded: np.ndarray) -> Attributes:
    """For `affinities`; made once a moment, because it looks at the whole catalogue.

    Args:
        values: encoded categories by the name of the attribute, [I] or [I, length].
        demanded: rows of the items `in_demand`.
    """
    columns = [value_I[:, None] if value_I.ndim == 1 else value_I for value_I in values.values()]
    num_values = [int(value_IL.max(initial=0)) + 1 for value_IL in columns]
    counts = [np.bincount(one[demanded].ravel(), minlength=num) for one, num in zip(columns, num_values, strict=True)]
    first_A = np.cumsum([0, *num_values])[:-1].astype(np.int64)
    numbered = [value_IL + first for value_IL, first in zip(columns, first_A, strict=True)]
    return Attributes(
        names=tuple(values),
        value_IL=np.concatenate(numbered, axis=1) if numbered else np.empty((0, 0), np.int64),
        place_A=np.cumsum([0, *(value_IL.shape[1] for value_IL in columns)]).astype(np.int64),
        first_A=first_A,
        common_V=np.concatenate([*counts, np.empty(0, np.int64)]) / max(len(demanded), 1),
    )


def affinities(row_BK: np.ndarray, history_BN: np.ndarray, attributes: Attributes) -> dict[str, np.ndarray]:
    """[B, K] of each attribute by the name of its feature: how much more of the history has a value than of the items
    in demand, the mean over the item's values, shrunk where the history is short; 0 without history or known value.

    Args:
        row_BK, history_BN: as for `similarities`.
        attributes: as `attributes_at` gives them.
    """
    affinity_ABK = np.empty((len(attributes.names), *row_BK.shape), np.float32)
    if not len(affinity_ABK):
        return {}
    row_BK, history_BN = np.ascontiguousarray(row_BK), np.ascontiguousarray(history_BN)
    _fill_affinities(
        row_BK,
        history_BN,
        attributes.value_IL,
        attributes.place_A,
        attributes.first_A,
        attributes.common_V,
        affinity_ABK,
    )
    return {affinity_name(name): values for name, values in zip(attributes.names, affinity_ABK, strict=True)}


@numba.njit(nogil=True, cache=True)
def _fill_affinities(row_BK, history_BN, value_IL, place_A, first_A, common_V, affinity_ABK):
    count_V = np.zeros(len(common_V), np.int64)
    for user in range(len(row_BK)):
        num = 0
        for had in history_BN[user]:
            if had != NO_ITEM:
                num += 1
                for value in value_IL[had]:
                    count_V[value] += 1
        for place in range(row_BK.shape[1]):
            value_L = value_IL[max(row_BK[user, place], 0)]
            for attribute in range(len(first_A)):
                total, num_known = 0.0, 0
                for value in value_L[place_A[attribute] : place_A[attribute + 1]]:
                    if value - first_A[attribute] >= FIRST_KNOWN:
                        total += (count_V[value] - num * common_V[value]) / (num + PRIOR)
                        num_known += 1
                affinity_ABK[attribute, user, place] = total / max(num_known, 1)
        for had in history_BN[user]:
            if had != NO_ITEM:
                for value in value_IL[had]:
                    count_V[value] = 0
