"""Items like those the user had, by what the catalogue says of them: the way to an item that nobody had yet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar, Self

import numpy as np
from scipy import sparse

from features.item_content import content_vectors
from retrieval.sources.neighbours import largest_of_rows
from retrieval.sources.source import Past, Proposals, Users, fading, matrix_arrays, square_matrix
from retrieval.sources.votes import best_by_votes

# B users  I items  F values and terms  M neighbours kept
NUM_NEIGHBOURS = 100
MAX_SHARED = 2_000
"""A value that more items share says little, and would make the search for neighbours quadratic: it is left out."""
_BLOCK = 512


@dataclass(frozen=True, eq=False)
class SimilarContent:
    """score(u, j) = sum over the user's history, the n-th newest item i, of decay^n cos(content_i, content_j).

    Contents are attribute values and words, weighted by how rare they are; only items that somebody had can be in a
    history, but each of them has its neighbours in the whole catalogue.
    Source: Pazzani & Billsus, "Content-based recommendation systems", The Adaptive Web, 2007.
    """

    text_weight: float
    """Share of the text in the cosine; the rest is the attributes'."""
    rarity: float = 1.0
    """Power of the inverse document frequency of a value."""
    decay: float = 0.9
    """Weight of an item of the history beside that of the next newer one."""
    similarity: sparse.csr_matrix = field(default_factory=lambda: sparse.csr_matrix((0, 0), dtype=np.float32))
    name: ClassVar[str] = "similar_content"
    scoring: ClassVar[tuple[str, ...]] = ("decay",)

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        if past.content is None or (past.content.text_NT is None and not past.content.attributes):
            return []
        weights = (0.5, 0.2) if past.content.text_NT is not None and past.content.attributes else (1.0,)
        if past.content.text_NT is None:
            weights = (0.0,)
        return [cls(weight, rarity, decay) for weight, rarity, decay in product(weights, (1.0, 2.0), (0.9, 0.98))]

    def fit(self, past: Past) -> Self:
        assert past.content is not None, "settings offers none without content"
        content_IF = content_vectors(past.content, self.text_weight, self.rarity)
        telling_F = np.bincount(content_IF.indices, minlength=content_IF.shape[1]) <= MAX_SHARED
        content_IF = sparse.csr_matrix(content_IF[:, telling_F])
        by_value_FI = sparse.csr_matrix(content_IF.T)
        had = np.flatnonzero(past.num_events)
        blocks = [sparse.csr_matrix((0, past.num_items), dtype=np.float32)]
        for rows in np.array_split(had, -(-len(had) // _BLOCK)) if len(had) else []:
            alike = sparse.csr_matrix(content_IF[rows] @ by_value_FI)
            blocks.append(largest_of_rows(alike, NUM_NEIGHBOURS, skipped=rows))
        of_had = sparse.vstack(blocks, "csr")
        spread = sparse.csr_matrix(
            (np.ones(len(had), np.float32), (had, np.arange(len(had)))), (past.num_items, len(had))
        )
        return replace(self, similarity=sparse.csr_matrix(spread @ of_had))

    def propose(self, users: Users, k: int) -> Proposals:
        return best_by_votes(users, fading(users.history_BN, self.decay), self.similarity, k)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"settings": np.array([self.text_weight, self.rarity, self.decay])} | matrix_arrays(self.similarity)

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(*arrays["settings"].tolist(), similarity=square_matrix(arrays))
