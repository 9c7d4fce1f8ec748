"""The items nearest to the user's query vector."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from retrieval.index.item_index import ItemIndex
from retrieval.sources.source import Proposals, Users


@dataclass(frozen=True, eq=False)
class TwoTowerSource:
    """score(u, i) = the inner product of both towers' vectors, popularity included."""

    index: ItemIndex
    name: ClassVar[str] = "two_tower"

    def propose(self, users: Users, k: int) -> Proposals:
        found = self.index.search(users.query_BE, k, forbidden=users.forbidden_BS, allowed=users.allowed_I)
        return Proposals.padded(*found, k)
