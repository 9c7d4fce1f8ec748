"""The items nearest to the user's query vector among those that nobody has had so far."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from retrieval.index.item_index import ItemIndex
from retrieval.sources.source import Proposals, Users


@dataclass(frozen=True, eq=False)
class NewItems:
    """score(u, i) = the inner product of both towers' vectors: the model knows a new item by its content alone.

    Beside items with a past a new one has no chance of its own: on the day it arrives it is one of many that may or may
    not sell. So new items have a source and a share of the candidates to themselves.
    """

    index: ItemIndex | None
    """Over the new items alone; None if there are none."""
    name: ClassVar[str] = "new_items"

    @classmethod
    def of(cls, index: ItemIndex, is_new_I: np.ndarray) -> NewItems:
        """Args:
        index: over all items.
        is_new_I: bool, whether nobody had the item.
        """
        return cls(index.only(is_new_I) if is_new_I.any() else None)

    def propose(self, users: Users, k: int) -> Proposals:
        if self.index is None:
            return Proposals.nothing(len(users), k)
        found = self.index.search(users.query_BE, k, forbidden=users.forbidden_BS, allowed=users.allowed_I)
        return Proposals.padded(*found, k)
