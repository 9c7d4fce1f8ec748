"""Items that the same users had: item-to-item co-visitation in which old visits fade."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from retrieval.sources.neighbours import strongest_neighbours
from retrieval.sources.source import Past, Proposals, Users, fading, matrix_arrays, square_matrix
from retrieval.sources.votes import best_by_votes

# B users  I items  M neighbours kept
LAST_N = 100
"""Latest interactions of each user that are paired: pairs grow with the square of a history."""
NUM_NEIGHBOURS = 200


@dataclass(frozen=True, eq=False)
class Covisitation:
    """score(u, j) = sum over the user's history, the n-th newest item i, of decay^n similarity(i, j).

    similarity(i, j) = sum over users of w_ui w_uj / (n_i n_j) ** power, n_i = sum over users of w_ui ** 2,
    w_ui = sum over the user's interactions with i of 2 ** (-age / (2 half-life)).
    Source: Linden et al., "Amazon.com recommendations", IEEE Internet Computing 2003; the fading is Ding & Li, "Time
    weight collaborative filtering", CIKM 2005.
    """

    half_life_days: float
    power: float = 0.3
    """Exponent of the normalisation; less of it favours common items."""
    decay: float = 0.9
    """Weight of an item of the history beside that of the next newer one."""
    similarity: sparse.csr_matrix = field(default_factory=lambda: sparse.csr_matrix((0, 0), dtype=np.float32))
    name: ClassVar[str] = "covisitation"
    scoring: ClassVar[tuple[str, ...]] = ("decay",)

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        half_lives = [past.span_days / part for part in (1, 4)]
        return [cls(half, power, decay) for half, power, decay in product(half_lives, (0.3, 0.5), (0.9, 1.0, 0.7))]

    def fit(self, past: Past) -> Self:
        last = _among_last(past, LAST_N)
        weight = np.sqrt(past.weight(self.half_life_days))[last]
        user_item = sparse.csr_matrix(
            (weight, (past.user_row[last], past.item_row[last])), (past.num_users, past.num_items)
        )
        square_I = np.asarray(user_item.multiply(user_item).sum(axis=0)).ravel()
        scale_I = np.where(square_I > 0, square_I, 1.0) ** -self.power
        scaled = user_item @ sparse.diags(scale_I)
        return replace(self, similarity=strongest_neighbours(scaled.tocsr(), NUM_NEIGHBOURS))

    def propose(self, users: Users, k: int) -> Proposals:
        weight_N = fading(users.history_BN[:, :LAST_N], self.decay)
        return best_by_votes(users, weight_N, self.similarity, k)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"settings": np.array([self.half_life_days, self.power, self.decay])} | matrix_arrays(self.similarity)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(*arrays["settings"].tolist(), similarity=square_matrix(arrays))


def _among_last(past: Past, num: int) -> np.ndarray:
    """[E] bool: whether at most num - 1 interactions of the user came after."""
    total_U = np.bincount(past.user_row, minlength=past.num_users)
    return past.place_in_history >= total_U[past.user_row] - num
