"""Two-tower model: a query tower and an item tower whose dot product says how well an item fits a user.

Source: Covington et al., "Deep neural networks for YouTube recommendations", RecSys 2016 (pooled history); Yi et al.,
"Sampling-bias-corrected neural modeling for large corpus item recommendations", RecSys 2019 (towers, temperature).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from merlin.models.torch import MLPBlock
from merlin.schema import Schema, Tags
from torch import nn

from features.as_of import HISTORY, HISTORY_GAP
from features.batches import Batch
from features.embedding import embedding_tables, table_of
from features.schema import UNSEEN, list_length, num_categories, select
from retrieval.config import TwoTowerConfig
from retrieval.popularity import NEW, NUM_COORDINATES
from retrieval.query_encoder import query_encoder

# B rows  C items of a step  I items  D embedding  F concatenated features  P popularity coordinates  E = D + P


class Tower(nn.Module):
    """Features -> unit vector, and numbers beside it.

    Embeddings, numbers and ready-made vectors go through an MLP; a linear short cut leads from the embeddings past it.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig, num_beside: int = 0) -> None:
        super().__init__()
        self.categorical = [column.name for column in select(schema, Tags.CATEGORICAL)]
        self.continuous = [column.name for column in select(schema, Tags.CONTINUOUS)]
        vectors = select(schema, Tags.EMBEDDING)
        self.vectors = [column.name for column in vectors]
        self.vector_width = sum(list_length(column) or 1 for column in vectors)
        self.dropout = nn.Dropout(config.dropout)
        self.mlp = MLPBlock([*config.hidden_units], activation=nn.ReLU)
        self.project = nn.Linear(config.hidden_units[-1], config.embedding_dim + num_beside)
        self.num_beside = num_beside

    def forward(self, embedded: dict[str, torch.Tensor], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """[B, D] unit vectors and [B, num_beside] numbers."""
        parts = [embedded[name] for name in self.categorical]
        parts += [batch[name].unsqueeze(-1) for name in self.continuous]
        parts += [batch[name] for name in self.vectors]
        projected = self.project(self.mlp(self.dropout(torch.cat(parts, dim=-1))))
        vector_BD = projected[:, : projected.shape[1] - self.num_beside]
        for name in self.categorical:
            vector_BD = vector_BD + embedded[name]
        return nn.functional.normalize(vector_BD, dim=-1), projected[:, projected.shape[1] - self.num_beside :]


class TwoTower(nn.Module):
    """Both towers over one set of embedding tables: a history is made of the same vectors as the items.

    score(user, item) = cos(query, item) / temperature + weights(user) . popularity(item)

    An item without a past is scored by its content alone, in training as in serving: its id, which later interactions
    have trained, is hidden.

    Args:
        schema: the etl stage's features; USER ones feed the query tower, ITEM ones the item tower.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig) -> None:
        super().__init__()
        user, item = select(schema, Tags.USER), select(schema, Tags.ITEM)
        lengths = [list_length(column) for column in user if column.name == HISTORY]
        gaps = [num_categories(column) for column in user if column.name == HISTORY_GAP]
        self.query_encoder = query_encoder(config.history, config.embedding_dim, lengths[0] or 1, gaps[0])
        user = Schema([column for column in user if column.name != HISTORY_GAP])  # the query encoder's affair
        self.tables = embedding_tables(Schema([*user, *item]), config.embedding_dim)
        self.query_tower = Tower(user, config, num_beside=NUM_COORDINATES)
        self.item_tower = Tower(item, config)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        with torch.no_grad():  # start from the popularity as it is, whatever the window
            self.query_tower.project.bias[config.embedding_dim :] = 1.0 / (NUM_COORDINATES - 1)
            self.query_tower.project.bias[config.embedding_dim + NEW] = 0.0

    def queries(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of users as of their moments: [B, D] vectors of length 1 / temperature, [B, P] weights of the popularity."""
        embedded = self._embed(self.query_tower, batch)
        embedded[HISTORY] = self.query_encoder(table_of(self.tables, HISTORY), batch)
        unit_BD, weight_BP = self.query_tower(embedded, batch)
        return unit_BD / self.temperature, weight_BP

    def query_vectors(self, batch: Batch) -> torch.Tensor:
        """[B, E] what the index is asked with."""
        return torch.cat(self.queries(batch), dim=1)

    def items(self, batch: Batch) -> torch.Tensor:
        """[B, D] unit vectors of items."""
        return self.item_tower(self._embed(self.item_tower, batch), batch)[0]

    def scores(
        self,
        query: tuple[torch.Tensor, torch.Tensor],
        item_CD: torch.Tensor,
        content_CD: torch.Tensor,
        popularity_BCP: torch.Tensor,
    ) -> torch.Tensor:
        """[B, C] float32 of users, each with the popularity of the items at the user's moment.

        Args:
            query: of `queries`.
            item_CD, content_CD: of `items`, with the items' ids and with all ids hidden.
        """
        query_BD, weight_BP = (part.float() for part in query)
        known_BC, new_BC = query_BD @ item_CD.float().T, query_BD @ content_CD.float().T
        liking_BC = torch.where(popularity_BCP[..., NEW] > 0, new_BC, known_BC)
        return liking_BC + torch.einsum("bcp,bp->bc", popularity_BCP, weight_BP)

    @property
    def query_inputs(self) -> list[str]:
        """Names of the features that `queries` reads."""
        tower = self.query_tower
        own = [*tower.categorical, *tower.continuous, *tower.vectors]
        return [*own, *(name for name in self.query_encoder.inputs if name not in own)]

    @property
    def query_width(self) -> int:
        """E, the width of what the index is asked with."""
        return self.query_tower.project.out_features

    @property
    def temperature(self) -> torch.Tensor:
        return self.log_temperature.exp().clamp(min=0.01)

    def _embed(self, tower: Tower, batch: Batch) -> dict[str, torch.Tensor]:
        return self.tables({name: batch[name] for name in tower.categorical if name != HISTORY})


@torch.no_grad()
def item_vectors(model: TwoTower, items: Batch, popularity_IP: torch.Tensor) -> np.ndarray:
    """[I, E] float32, row i is item_row i: each item's unit vector, then its popularity."""
    items = items | {"item_id": torch.where(popularity_IP[:, NEW] > 0, UNSEEN, items["item_id"])}
    chunks = torch.arange(len(items["item_id"])).split(8_192)
    vector_ID = torch.cat([model.items({name: column[rows] for name, column in items.items()}) for rows in chunks])
    return torch.cat([vector_ID, popularity_IP], dim=1).numpy()
