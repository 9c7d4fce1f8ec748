"""Inner products as distances: the space in which graphs and cells are built.

An item's vector is [unit coordinates, a few logs of counts]; a query weighs them very differently. Neighbours by the
items' own lengths would be neighbours in popularity alone, and by inner product everything's neighbour would be the
few most popular items. Two steps, neither of which changes an inner product, make them neighbours in what queries see:

1. Every coordinate is multiplied by the queries' root mean square there, and the query divided by it. Powers of two:
   nothing is rounded.
2. A coordinate more puts all items on one sphere, x -> [x, sqrt(max|x|^2 - |x|^2)] and q -> [q, 0], where the nearest
   by distance are those of highest inner product. Source: Bachrach et al., RecSys 2014, theorem 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

# Q queries  D embedding  W = D + 1  N vectors
_LEAST_SHARE = 2.0**-10
"""Of the largest coordinate's mean square root: one that queries do not use would vanish otherwise."""


@dataclass(frozen=True)
class SphereSpace:
    """The space of the queries it was fitted to."""

    exponent: tuple[int, ...]
    """[D] powers of two with which the items' coordinates are multiplied."""

    @classmethod
    def fitted(cls, dim: int, query_QD: np.ndarray | None) -> SphereSpace:
        """Of these queries; without any, items stay as they are."""
        if query_QD is None or not np.any(query_QD):
            return cls((0,) * dim)
        mean_D = np.sqrt(np.square(query_QD, dtype=np.float64).mean(0))
        return cls(tuple(np.round(np.log2(np.maximum(mean_D, _LEAST_SHARE * mean_D.max()))).astype(int).tolist()))

    def items(self, vector_ND: np.ndarray) -> np.ndarray:
        """[N, W] float32, all of one length."""
        scaled_ND = np.ldexp(vector_ND.astype(np.float32), np.array(self.exponent, np.int32))
        squared_N = np.einsum("nd,nd->n", scaled_ND, scaled_ND, dtype=np.float64)
        rest_N1 = np.sqrt(np.maximum(squared_N.max() - squared_N, 0))[:, None]
        return np.concatenate([scaled_ND, rest_N1.astype(np.float32)], axis=1)

    def queries(self, query_QD: np.ndarray) -> np.ndarray:
        """[Q, W] float32: the inner product with `items` is that of the vectors themselves."""
        query_QW = np.zeros((len(query_QD), query_QD.shape[1] + 1), np.float32)
        np.ldexp(query_QD, self._of_queries, out=query_QW[:, :-1])
        return query_QW

    def vectors(self, item_NW: np.ndarray) -> np.ndarray:
        """[N, D] what was given to `items`."""
        return np.ldexp(item_NW[:, :-1], self._of_queries)

    @cached_property
    def _of_queries(self) -> np.ndarray:
        return -np.array(self.exponent, np.int32)
