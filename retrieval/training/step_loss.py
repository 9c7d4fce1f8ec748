"""The loss of one training step: which items it scores, and how the model scores them."""

from __future__ import annotations

import torch

from features.batches import Batch, FeatureTables
from features.bfloat16 import has_fast_bf16
from features.schema import UNSEEN
from retrieval.config import RetrievalConfig
from retrieval.popularity import PopularityTimeline
from retrieval.training.hard_items import hard_items
from retrieval.training.losses import sampled_softmax
from retrieval.training.scored_items import ScoredItems
from retrieval.two_tower import TwoTower
from retrieval.validation import UnseenIds

# B examples  C scored items  I items  D embedding
_HARD_DEPTH = 100
"""Ranks among which an item is hard for a user."""
_CHUNK = 8_192
_QUERY_CHUNK = 128


class StepLoss:
    """Sampled softmax of a batch's examples.

    Args:
        scored_items: draws the step's items.
        hidden: ids that are shown to the model as unseen.
    """

    def __init__(
        self,
        model: TwoTower,
        tables: FeatureTables,
        scored_items: ScoredItems,
        popularity: PopularityTimeline,
        hidden: UnseenIds | None,
        config: RetrievalConfig,
    ) -> None:
        self._model, self._tables, self._popularity, self._hidden = model, tables, popularity, hidden
        self._config = config
        self._uses_bf16 = config.bf16 == "auto" and has_fast_bf16()
        self.scored_items = scored_items

    @property
    def wants_hard(self) -> bool:
        return self._config.num_hard > 0 and not self.scored_items.is_whole

    def __call__(self, batch: Batch) -> torch.Tensor:
        item_row_C, positive_B, log_q_C = self.scored_items.draw(batch["item_row"])
        items = self._items(item_row_C)
        batch = self._as_seen(batch)
        with torch.autocast("cpu", torch.bfloat16, enabled=self._uses_bf16):
            query = self._model.queries(batch | {"user_id": self._dropped(batch["user_id"])})
            item_CD = self._model.items(items | {"item_id": self._dropped(items["item_id"])})
            content_CD = self._model.items(_without_ids(items))
        popularity_BCP = self._popularity.before(batch["timestamp"], item_row_C)
        score_BC = self._model.scores(query, item_CD, content_CD, popularity_BCP)
        return sampled_softmax(score_BC, positive_B, log_q_C, self._config.label_smoothing)

    @torch.no_grad()
    def renew_hard(self, batch: Batch) -> None:
        """Search the whole catalogue for what the model of now ranks first for the batch's users."""
        self._model.eval()
        every_row = torch.arange(len(self._tables.items["item_id"]))
        item_ID = torch.cat([self._model.items(self._items(rows)) for rows in every_row.split(_CHUNK)])
        content_ID = torch.cat([self._model.items(_without_ids(self._items(rows))) for rows in every_row.split(_CHUNK)])
        found = []
        for rows in torch.arange(len(batch["item_row"])).split(_QUERY_CHUNK):
            some = self._as_seen({name: column[rows] for name, column in batch.items()})
            popularity_BIP = self._popularity.before(some["timestamp"], every_row)
            score_BI = self._model.scores(self._model.queries(some), item_ID, content_ID, popularity_BIP)
            found.append(hard_items(score_BI, some["item_row"], _HARD_DEPTH))
        self._model.train()
        self.scored_items.add_hard(torch.cat(found), self._config.num_hard)

    def _items(self, item_row: torch.Tensor) -> Batch:
        return self._as_seen(self._tables.item_features(item_row))

    def _as_seen(self, batch: Batch) -> Batch:
        return self._hidden(batch) if self._hidden else batch

    def _dropped(self, ids: torch.Tensor) -> torch.Tensor:
        return torch.where(torch.rand(ids.shape) < self._config.id_dropout, UNSEEN, ids)


def _without_ids(items: Batch) -> Batch:
    return items | {"item_id": torch.full_like(items["item_id"], UNSEEN)}
