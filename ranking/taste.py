"""How a user's history and an item go together, and how an item stands among those in demand: arrays in and out.

Training and serving call the same functions. The features of a pair depend on that pair alone, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from features.schema import FIRST_KNOWN
from ranking.pair_features import POPULARITY_NAMES, SIMILARITIES, affinity_name, relative_name

# B users  K candidates  N history  I items  L values of an attribute  V all its values  D item vectors  P windows
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
    for user, history_N in enumerate(history_BN):  # each user's product by itself: its rounding depends on nobody else
        past = history_N[history_N != NO_ITEM]
        if not len(past):
            continue
        # One product a pair, not a matrix product: its rounding does not depend on how many candidates there are.
        cosine_KN = np.einsum("kd,nd->kn", unit_ID[np.maximum(row_BK[user], 0)], unit_ID[past])
        belief = np.float32(len(past) / (len(past) + PRIOR))
        found[0][user] = belief * cosine_KN.mean(1)
        found[1][user] = belief * cosine_KN[:, :LAST_N].mean(1)
        found[2][user] = belief * cosine_KN.max(1)
    return dict(zip(SIMILARITIES, found, strict=True))


@dataclass(frozen=True, eq=False)
class Attribute:
    """An attribute of all items at a moment."""

    value_IL: np.ndarray
    """Encoded categories."""
    common_V: np.ndarray
    """How often the items in demand have each value, over their number."""

    @classmethod
    def of(cls, values: np.ndarray, demanded: np.ndarray) -> Attribute:
        """Args:
        values: [I] or [I, L].
        demanded: rows of the items `in_demand`.
        """
        value_IL = values[:, None] if values.ndim == 1 else values
        counts_V = np.bincount(value_IL[demanded].ravel(), minlength=int(value_IL.max(initial=0)) + 1)
        return cls(value_IL, counts_V / max(len(demanded), 1))


def attributes_at(values: Mapping[str, np.ndarray], demanded: np.ndarray) -> dict[str, Attribute]:
    """Each attribute by name, for `affinities`; made once a moment, because it looks at the whole catalogue."""
    return {name: Attribute.of(value_IL, demanded) for name, value_IL in values.items()}


def affinities(
    row_BK: np.ndarray, history_BN: np.ndarray, attributes: Mapping[str, Attribute]
) -> dict[str, np.ndarray]:
    """[B, K] of each attribute by the name of its feature: how much more of the history has a value than of the items
    in demand, the mean over the item's values, shrunk where the history is short; 0 without history or known value.

    Args:
        row_BK, history_BN: as for `similarities`.
        attributes: as `attributes_at` gives them.
    """
    return {affinity_name(name): _affinity(one, row_BK, history_BN) for name, one in attributes.items()}


def _affinity(attribute: Attribute, row_BK: np.ndarray, history_BN: np.ndarray) -> np.ndarray:
    value_IL, common_V = attribute.value_IL, attribute.common_V
    size = len(common_V)
    user, place = np.nonzero(history_BN != NO_ITEM)
    had_ML = value_IL[history_BN[user, place]]
    known_ML = had_ML >= FIRST_KNOWN
    key = (user[:, None] * size + had_ML)[known_ML]
    count_BV = np.bincount(key, minlength=len(row_BK) * size).reshape(len(row_BK), size)
    of_item_BKL = value_IL[np.maximum(row_BK, 0)]
    count_BKL = count_BV[np.arange(len(row_BK))[:, None, None], of_item_BKL]
    known_BKL = of_item_BKL >= FIRST_KNOWN
    num_past_B11 = (history_BN != NO_ITEM).sum(1)[:, None, None]
    more_BKL = np.where(known_BKL, (count_BKL - num_past_B11 * common_V[of_item_BKL]) / (num_past_B11 + PRIOR), 0.0)
    total_BK = more_BKL[..., 0].copy()
    for place in range(1, more_BKL.shape[2]):  # one after the other: the same sum to the bit, however many candidates
        total_BK += more_BKL[..., place]
    return (total_BK / np.maximum(known_BKL.sum(2), 1)).astype(np.float32)
