"""A linear model of which items go together: EASE over the items that have enough of a past."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar, Self

import numpy as np
from scipy import linalg, sparse

from retrieval.sources.neighbours import largest_of_rows
from retrieval.sources.source import Past, Proposals, Users, fading, matrix_arrays, square_matrix
from retrieval.sources.votes import best_by_votes

# I items  L items of the model
NUM_NEIGHBOURS = 400
"""Weights kept of each item, the largest."""


@dataclass(frozen=True, eq=False)
class Linear:
    """score(u, j) = sum over the user's history of B_ij, B = argmin |X - XB|^2 + l2 |B|^2 with a zero diagonal.

    Only the items with the most interactions take part: it solves for an L x L matrix.

    Source: Steck, "Embarrassingly shallow autoencoders for sparse data", WWW 2019.
    """

    l2: float = 300.0
    weights: sparse.csr_matrix = field(default_factory=lambda: sparse.csr_matrix((0, 0), dtype=np.float32))
    """[I, I] the entries of B of the largest size."""
    name: ClassVar[str] = "linear"
    scoring: ClassVar[tuple[str, ...]] = ()

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        return [cls(l2) for l2 in (300.0, 100.0, 1_000.0)] if past.max_linear_items else []

    def fit(self, past: Past) -> Self:
        item_L = np.sort(np.lexsort((np.arange(past.num_items), -past.num_events))[: past.max_linear_items])
        item_L = item_L[past.num_events[item_L] > 0]
        place_I = np.full(past.num_items, -1)
        place_I[item_L] = np.arange(len(item_L))
        modelled = place_I[past.item_row] >= 0
        pairs = np.unique(np.stack([past.user_row, place_I[past.item_row]], 1)[modelled], axis=0)
        ones = np.ones(len(pairs), np.float32)
        user_item = sparse.csr_matrix((ones, (pairs[:, 0], pairs[:, 1])), (past.num_users, len(item_L)))
        gram_LL = (user_item.T @ user_item).toarray()
        gram_LL[np.diag_indices_from(gram_LL)] += self.l2
        inverse_LL = linalg.inv(gram_LL, overwrite_a=True, check_finite=False) if len(item_L) else gram_LL
        weight_LL = -inverse_LL / np.diag(inverse_LL)
        largest = largest_of_rows(sparse.csr_matrix(weight_LL), NUM_NEIGHBOURS, skipped=np.arange(len(item_L))).tocoo()
        spread = sparse.csr_matrix(
            (largest.data, (item_L[largest.row], item_L[largest.col])), (past.num_items, past.num_items)
        )
        return replace(self, weights=spread)

    def propose(self, users: Users, k: int) -> Proposals:
        weight_N = fading(users.history_BN, 1.0)
        return best_by_votes(users, weight_N, self.weights, k, repeats_count=False)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"settings": np.array([self.l2])} | matrix_arrays(self.weights)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(*arrays["settings"].tolist(), weights=square_matrix(arrays))
