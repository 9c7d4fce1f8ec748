"""KeepAllowed: for users whose request names the only items they may get, those and no others."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.candidates import CANDIDATES, widened
from ensemble.catalogue import Catalogue, load_item_vectors
from ensemble.item_filters import ATTRIBUTES, filters_of
from ensemble.operators.fetch_user_features import FALLBACK
from ensemble.operators.operator import Columns, RequestOperator
from ensemble.selection import keep_allowed

# B users  K candidates
NO_ITEM = -1


class KeepAllowed(RequestOperator):
    """Drops candidates that are not on the user's list, and puts the others of the list behind them, as many as are
    wanted: nearest to the query first, or the most popular where nothing is known of the user. What is forbidden, or
    kept from everybody, stays out. Users without a list keep their candidates.

    Args:
        items: the etl stage's `items.parquet`.
        attributes: the items' raw attributes.
        item_vectors: the retrieval stage's `item_vectors.parquet`.
    """

    outputs = CANDIDATES

    def __init__(self, items: Path, attributes: Path, item_vectors: Path) -> None:
        super().__init__(**{"items.parquet": items, ATTRIBUTES: attributes, "item_vectors.parquet": item_vectors})

    def run(self, columns: Columns) -> Columns:
        restricted = np.flatnonzero(columns["is_restricted"])
        if not len(restricted):
            return {name: columns[name] for name in self.outputs}
        kept = widened(columns, int(columns["wanted"][restricted].max()))
        row_BK, score_BK, said_BKS = (kept[name] for name in CANDIDATES)
        for user in restricted.tolist():
            allowed = self._allowed(columns, user)
            order, added = keep_allowed(row_BK[user], allowed, int(columns["wanted"][user]))
            num_kept, num = len(order), len(order) + len(added)
            row_BK[user, :num_kept], row_BK[user, num_kept:num] = row_BK[user, order], added
            score_BK[user, :num_kept], said_BKS[user, :num_kept] = score_BK[user, order], said_BKS[user, order]
            row_BK[user, num:], score_BK[user, num_kept:], said_BKS[user, num_kept:] = NO_ITEM, 0, 0
        return kept

    def open(self, folder: Path) -> None:
        self.opened_items = Catalogue(folder / "items.parquet")
        self.opened_filters = filters_of(folder, self.opened_config.filters)
        self.opened_vectors = load_item_vectors(folder / "item_vectors.parquet")

    def _allowed(self, columns: Columns, user: int) -> np.ndarray:
        """Item rows that the user may get, best first, ties by row."""
        allowed = np.unique(columns["allowed_row"][user])
        allowed = allowed[(allowed != NO_ITEM) & ~np.isin(allowed, columns["forbidden_row"][user])]
        allowed_I = self.opened_filters.at(columns["filter_state"]).allowed_I
        if allowed_I is not None:
            allowed = allowed[allowed_I[allowed]]
        if columns["source"][user] >= FALLBACK:
            score = self.opened_items.popularity[allowed]
        else:  # one product a pair: its rounding does not depend on how many there are
            score = np.einsum("nd,d->n", self.opened_vectors[allowed], columns["query_vector"][user])
        return allowed[np.argsort(-score, kind="stable")]
