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

    index: ItemIndex
    is_new_I: np.ndarray
    """[I] bool: nobody had the item."""
    name: ClassVar[str] = "new_items"

    def propose(self, users: Users, k: int) -> Proposals:
        if not self.is_new_I.any():
            return Proposals.nothing(len(users), k)
        allowed_I = self.is_new_I if users.allowed_I is None else self.is_new_I & users.allowed_I
        found = self.index.search(users.query_BE, k, forbidden=users.forbidden_BS, allowed=allowed_I)
        return Proposals.padded(*found, k)
