"""What the user had before, for logs in which people buy again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Self

import numpy as np

from retrieval.sources.source import Past, Proposals, Users, best_of_rows


@dataclass(frozen=True, eq=False)
class RepeatPurchase:
    """score(u, i) = sum over the user's interactions with i, the n-th newest of all, of decay^n.

    Source: Anderson et al., "The dynamics of repeat consumption", WWW 2014: recency and frequency foretell it.
    """

    decay: float = 0.9
    num_items: int = 0
    name: ClassVar[str] = "repeat_purchase"
    scoring: ClassVar[tuple[str, ...]] = ("decay",)

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        return [cls(decay) for decay in (0.9, 0.97, 0.8)] if past.may_repeat else []

    def fit(self, past: Past) -> Self:
        return replace(self, num_items=past.num_items)

    def propose(self, users: Users, k: int) -> Proposals:
        votes = users.votes(self.num_items, users.history_BN.shape[1], self.decay)
        return best_of_rows(votes, users, k)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        return {"settings": np.array([self.decay]), "num_items": np.array([self.num_items])}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        return cls(*arrays["settings"].tolist(), *arrays["num_items"].tolist())
