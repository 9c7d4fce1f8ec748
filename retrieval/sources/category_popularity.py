"""What sells of late in the categories that the user likes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar, Self

import numba
import numpy as np
from scipy import sparse

from retrieval.item_rows import NO_ITEM
from retrieval.sources.recent_popularity import NUM_POPULAR
from retrieval.sources.source import Past, Proposals, Users, best_of_columns, csr_of, matrix_arrays

# B users  M popular items  I items  V values of the attribute


@dataclass(frozen=True, eq=False)
class CategoryPopularity:
    """score(u, i) = sum over i's values v of share(v | u) popularity(i) / popularity(v), divided by their number.

    share(v | u) is proportional to u's items in v + prior share(v): a user without history gets everybody's taste.
    popularity is interactions weighted by 2 ** (-age / half-life); that of a value is the sum of its items', an item of
    several values being split between them. Only the NUM_POPULAR most popular items are proposed.
    """

    half_life_days: float
    attribute: str = ""
    """Attribute of the items whose values are the categories."""
    prior: float = 10.0
    """Items' worth of common taste that every user starts with."""
    popular_M: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Item rows, most popular first."""
    common_M: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    """What the prior adds to each item's score."""
    values_IV: sparse.csr_matrix = field(default_factory=lambda: sparse.csr_matrix((0, 0), dtype=np.float32))
    """Rows that sum to 1 over the item's values."""
    parts_VM: sparse.csr_matrix = field(default_factory=lambda: sparse.csr_matrix((0, 0), dtype=np.float32))
    """Each popular item's part of the value's popularity."""
    name: ClassVar[str] = "category_popularity"
    scoring: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        attributes = sorted(past.content.attributes) if past.content else []
        half_lives = [past.span_days / 4**quarterings for quarterings in (1, 2, 3, 4)]
        return [cls(half, name, prior) for name, prior, half in product(attributes, (10.0, 100.0), half_lives)]

    def fit(self, past: Past) -> Self:
        assert past.content is not None, "settings offers none without content"
        has_IV = past.content.attributes[self.attribute]
        num_values_I = np.maximum(np.asarray(has_IV.sum(axis=1)).ravel(), 1.0)
        values_IV = sparse.csr_matrix(sparse.diags(1 / num_values_I) @ has_IV, dtype=np.float32)
        popularity_I = np.bincount(past.item_row, past.weight(self.half_life_days), past.num_items).astype(np.float64)
        popular_M = np.lexsort((np.arange(past.num_items), -popularity_I))[:NUM_POPULAR]
        popular_M = popular_M[popularity_I[popular_M] > 0]
        popularity_V = values_IV.T @ popularity_I
        inverse_V = np.divide(1.0, popularity_V, out=np.zeros(len(popularity_V)), where=popularity_V > 0)
        parts_VM = sparse.diags(inverse_V) @ values_IV[popular_M].T @ sparse.diags(popularity_I[popular_M])
        share_V = popularity_V / max(popularity_V.sum(), 1e-12)
        return replace(
            self,
            popular_M=popular_M,
            common_M=(self.prior * (share_V @ parts_VM)).astype(np.float32),
            values_IV=values_IV,
            parts_VM=sparse.csr_matrix(parts_VM, dtype=np.float32),
        )

    def propose(self, users: Users, k: int) -> Proposals:
        score_BM = np.repeat(self.common_M[None], len(users), axis=0)
        history_BN = np.ascontiguousarray(users.history_BN, np.int64)
        _add_taste(history_BN, *_parts(self.values_IV), *_parts(self.parts_VM), score_BM)
        return best_of_columns(score_BM, self.popular_M, users, k)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"settings": np.array([self.half_life_days, self.prior])}
        arrays |= {"popular": self.popular_M, "common": self.common_M}
        for name, matrix in (("values", self.values_IV), ("parts", self.parts_VM)):
            arrays |= {f"{name}.{part}": values for part, values in matrix_arrays(matrix).items()}
        return arrays

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        num_popular, num_values = len(arrays["popular"]), len(arrays["parts.indptr"]) - 1
        half_life_days, prior = arrays["settings"].tolist()
        return cls(
            half_life_days,
            prior=prior,
            popular_M=arrays["popular"],
            common_M=arrays["common"],
            values_IV=csr_of(arrays, num_values, "values."),
            parts_VM=csr_of(arrays, num_popular, "parts."),
        )


def _parts(matrix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return matrix.indptr, matrix.indices, matrix.data


@numba.njit(nogil=True, cache=True)
def _add_taste(history_BN, value_start, value, value_share, item_start, item, item_share, score_BM):
    """Add to each score the item's part of its values' popularity, as often as the history has the value."""
    taste_V = np.zeros(len(item_start) - 1, np.float32)
    for user in range(len(history_BN)):
        for had in history_BN[user]:
            if had != NO_ITEM:
                for entry in range(value_start[had], value_start[had + 1]):
                    taste_V[value[entry]] += value_share[entry]
        score_M = score_BM[user]
        for one in np.flatnonzero(taste_V):
            for entry in range(item_start[one], item_start[one + 1]):
                score_M[item[entry]] += taste_V[one] * item_share[entry]
            taste_V[one] = 0
