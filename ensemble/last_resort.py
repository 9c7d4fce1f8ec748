"""LastResort: answers from slates made earlier and from popularity, when the request path cannot.

Light: no Merlin, torch, Feast, FAISS or onnxruntime. It serves inside the model for a request whose run failed, as a
model of its own for when the model itself is gone, and alone where slates are all that is to be served.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.catalogue import Catalogue
from ensemble.config import ServingConfig
from ensemble.item_filters import ItemFilters, filters_of
from ensemble.known_slates import KnownSlates, score_of_place
from ensemble.request import Reply, Request
from ensemble.trace import Trace

# I items  k items of a slate  n items of one user
NO_ITEM = -1
ITEMS = "items.parquet"
CACHED, DEGRADED, FALLBACK = "cached", "degraded", "fallback"


class LastResort:
    """Items that a request forbids, or that the user's slate says the user had, are never given.

    Args:
        items: the catalogue.
        filters: what may be shown to anybody.
        slates: with item rows of that catalogue.
        without_slate: the source of a user who has none while there are slates.
    """

    def __init__(
        self, items: Catalogue, filters: ItemFilters, slates: KnownSlates, without_slate: str = DEGRADED
    ) -> None:
        self._items = items
        self._filters = filters
        self._slates = slates
        self._without_slate = without_slate
        self.source_names: list[str] = []
        """No candidate source is asked."""
        self.feature_names: list[str] = []
        """No feature is read."""
        self.last_resort = None
        """There is nothing below it."""

    @classmethod
    def open(cls, folder: Path, config: ServingConfig) -> LastResort:
        """Args:
        folder: with the etl stage's `items.parquet` and the items' raw attributes.
        """
        catalogue = Catalogue(folder / ITEMS)
        is_all = config.cache.mode == "only"  # a user without a slate is one whom the run does not know
        slates = KnownSlates(config.cache, catalogue.rows_of)
        return cls(catalogue, filters_of(folder, config.filters), slates, FALLBACK if is_all else DEGRADED)

    def recommend(self, request: Request, trace: Trace | None = None) -> Reply:
        """Answer a checked request; every user's answer is the same whoever else is in it.

        Temperature and diversity are left aside: the order is that of the slate, then that of popularity.

        Args:
            trace: gets nothing, for no operator runs.
        """
        width = int(request.k.max())
        slate_Bk = np.full((len(request), width), NO_ITEM, np.int64)
        score_Bk = np.full((len(request), width), -np.inf, np.float32)
        without_slate = self._without_slate if self._slates.has_file() else DEGRADED
        source_B = np.full(len(request), without_slate, dtype=object)
        for place, (user_id, k) in enumerate(zip(request.user_id, request.k.tolist(), strict=True)):
            known_n, popular_n = self._rows_for(user_id, k, request.exclude[place], request.allow[place])
            row_n = np.concatenate([known_n, popular_n])
            slate_Bk[place, : len(row_n)] = row_n
            # As the request path scores them: those of the slate by their places, behind them what is popular.
            score_Bk[place, : len(known_n)] = score_of_place(len(known_n))
            lower = 1 if len(known_n) else 0
            score_Bk[place, len(known_n) : len(row_n)] = self._items.popularity[popular_n] - lower
            if len(known_n):
                source_B[place] = CACHED
        ids_Bk = self._items.ids_of(slate_Bk)
        candidates = ids_Bk if request.with_candidates else ids_Bk[:, :0]
        propensities_Bk = (slate_Bk != NO_ITEM).astype(np.float32)
        return Reply(ids_Bk, score_Bk, propensities_Bk, source_B, candidates, candidates)

    def _rows_for(
        self, user_id: str, k: int, exclude: np.ndarray, allow: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """At most k item rows: those of the user's slate, and popular ones behind them."""
        known = self._slates.of(user_id)
        for_all_I = self._filters.now.allowed_I
        is_allowed_I = np.ones(len(self._items), bool) if for_all_I is None else for_all_I.copy()
        if allow is not None:
            is_listed_I = np.zeros(len(self._items), bool)
            is_listed_I[self._rows_of(allow)] = True
            is_allowed_I &= is_listed_I
        is_allowed_I[self._rows_of(exclude)] = False
        is_allowed_I[known.seen_row] = False
        known_n = known.row_n[is_allowed_I[known.row_n]][:k]
        is_allowed_I[known_n] = False
        return known_n, self._most_popular(is_allowed_I, k - len(known_n))

    def _most_popular(self, is_allowed_I: np.ndarray, num: int) -> np.ndarray:
        """The `num` most popular allowed items, or all of them; looks at twice as many until there are enough."""
        by_popularity, depth = self._items.by_popularity, max(4 * num, 64)
        while True:
            first = by_popularity[:depth]
            found = first[is_allowed_I[first]]
            if len(found) >= num or depth >= len(by_popularity):
                return found[:num]
            depth *= 2

    def _rows_of(self, ids: np.ndarray) -> np.ndarray:
        rows = self._items.rows_of(ids)
        return rows[rows != NO_ITEM]
