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

from features.batches import Batch
from features.embedding import embedding_tables
from features.schema import select
from retrieval.config import TwoTowerConfig

# B rows  I items  D embedding  F concatenated features


class Tower(nn.Module):
    """Features -> unit vector, and numbers beside it.

    Embeddings, numbers and ready-made vectors go through an MLP; a linear short cut leads from the embeddings past it.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig, num_beside: int = 0) -> None:
        super().__init__()
        self.categorical = [column.name for column in select(schema, Tags.CATEGORICAL)]
        self.continuous = [column.name for column in select(schema, Tags.CONTINUOUS)]
        self.vectors = [column.name for column in select(schema, Tags.EMBEDDING)]
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

    score(user, item) = cos(query, item) / temperature + weight(user) log popularity(item)

    Args:
        schema: the etl stage's features; USER ones feed the query tower, ITEM ones the item tower.
    """

    def __init__(self, schema: Schema, config: TwoTowerConfig) -> None:
        super().__init__()
        user, item = select(schema, Tags.USER), select(schema, Tags.ITEM)
        self.tables = embedding_tables(Schema([*user, *item]), config.embedding_dim)
        self.query_tower = Tower(user, config, num_beside=1)
        self.item_tower = Tower(item, config)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(config.temperature)))
        with torch.no_grad():  # start from the popularity as it is
            self.query_tower.project.bias[config.embedding_dim] = 1.0

    def queries(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Of users as of their moments: [B, D] vectors of length 1 / temperature, [B, 1] weight of the popularity."""
        unit_BD, weight_B1 = self.query_tower(self._embed(self.query_tower, batch), batch)
        return unit_BD / self.temperature, weight_B1

    def query_vectors(self, batch: Batch) -> torch.Tensor:
        """[B, D + 1] what the index is asked with."""
        return torch.cat(self.queries(batch), dim=1)

    def items(self, batch: Batch) -> torch.Tensor:
        """[B, D] unit vectors of items."""
        return self.item_tower(self._embed(self.item_tower, batch), batch)[0]

    @property
    def temperature(self) -> torch.Tensor:
        return self.log_temperature.exp().clamp(min=0.01)

    def _embed(self, tower: Tower, batch: Batch) -> dict[str, torch.Tensor]:
        return self.tables({name: batch[name] for name in tower.categorical})


@torch.no_grad()
def item_vectors(model: TwoTower, items: Batch, log_popularity_I: torch.Tensor) -> np.ndarray:
    """[I, D + 1] float32, row i is item_row i: each item's unit vector, then its log popularity."""
    chunks = torch.arange(len(items["item_id"])).split(8_192)
    vector_ID = torch.cat([model.items({name: column[rows] for name, column in items.items()}) for rows in chunks])
    return torch.cat([vector_ID, log_popularity_I[:, None]], dim=1).numpy()
