"""The ranker of impressions: the click probability of a row of numbers and categories.

The tables' gradients are sparse: a step costs what its batch touches, however large the vocabularies.
"""

from __future__ import annotations

import torch
from merlin.schema import Schema
from torch import nn

from features.batches import Batch
from features.embedding import embedding_tables
from ranking.clicks.checks import PartStatistics
from ranking.clicks.model import ClickModel, output_layer
from ranking.config import NetworkConfig
from ranking.networks import network_of

# N rows  C categorical features  D embedding


class ClickRanker(ClickModel):
    """Categories as vectors, and a network over them and the numbers.

    Args:
        schema: the features, as `click_schema` gives them; the label is not read.
        fitted: statistics of the train part, whose click rate it says of every row until it is trained.
        l2: strength of the penalty, as `ClickModel` says.
    """

    def __init__(self, schema: Schema, config: NetworkConfig, fitted: PartStatistics, l2: float) -> None:
        super().__init__(schema, fitted, l2)
        self.tables = embedding_tables(schema, config.embedding_dim)
        for table in (module for module in self.tables.modules() if isinstance(module, nn.Embedding)):
            table.sparse = True
            bound = table.num_embeddings**-0.5  # as the authors of DLRM do
            nn.init.uniform_(table.weight, -bound, bound)
        self.network = network_of(config, len(self.continuous), len(self.categorical))
        self.output = output_layer(self.network.width, fitted.click_rate)

    def start(self) -> None:
        """Random weights for the output: behind zeros, the penalty would empty the tables before the data speaks."""
        nn.init.kaiming_uniform_(self.output.weight, a=5**0.5)  # as nn.Linear does

    def forward(self, batch: Batch) -> torch.Tensor:
        """[N] logits."""
        return self._logits(batch, self._vectors(batch))

    def scored(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        vector_NCD = self._vectors(batch)
        return self._logits(batch, vector_NCD), self.id_penalty(batch, vector_NCD)

    def _vectors(self, batch: Batch) -> torch.Tensor:
        vectors = self.tables({name: batch[name].long() for name in self.categorical})
        return torch.stack([vectors[name] for name in self.categorical], dim=1)

    def _logits(self, batch: Batch, vector_NCD: torch.Tensor) -> torch.Tensor:
        return self.output(self.network(self.numbers(batch), vector_NCD)).squeeze(-1)
