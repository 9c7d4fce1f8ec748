"""DLRM for impressions: the click probability of a row of numbers and categories.

Built from Merlin Models' torch blocks. The tables' gradients are sparse: a step costs what its batch touches, however
large the vocabularies.

Source: Naumov et al., "Deep learning recommendation model for personalization and recommendation systems", 2019.
"""

from __future__ import annotations

import torch
from merlin.models.torch import MLPBlock
from merlin.models.torch.blocks.dlrm import DLRMInteraction
from merlin.schema import Schema
from torch import nn

from features.batches import Batch
from features.embedding import embedding_tables
from ranking.clicks.checks import PartStatistics
from ranking.clicks.model import ClickModel, output_layer
from ranking.config import ClickConfig

# N rows  C categorical features  D embedding


class ClickDlrm(ClickModel):
    """Categories as vectors, numbers through a bottom MLP, all pairwise dot products, a top MLP.

    Args:
        schema: the features, as `click_schema` gives them; the label is not read.
        fitted: statistics of the train part, whose click rate it says of every row until it is trained.
    """

    def __init__(self, schema: Schema, config: ClickConfig, fitted: PartStatistics) -> None:
        super().__init__(schema, fitted, config.l2)
        self.tables = embedding_tables(schema, config.embedding_dim)
        for table in (module for module in self.tables.modules() if isinstance(module, nn.Embedding)):
            table.sparse = True
            bound = table.num_embeddings**-0.5  # as the authors' code does
            nn.init.uniform_(table.weight, -bound, bound)
        self.bottom = MLPBlock([*config.bottom_units, config.embedding_dim])
        self.interaction = DLRMInteraction()
        self.dropout = nn.Dropout(config.dropout)
        self.top = MLPBlock([*config.top_units])
        self.output = output_layer(config.top_units[-1], fitted.click_rate)
        self(self.example_batch())  # Merlin's layers take their shapes from the first batch

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
        bottom_ND = self.bottom(self.numbers(batch))
        crossed = self.interaction(torch.cat([bottom_ND.unsqueeze(1), vector_NCD], dim=1))
        top_in = torch.cat([bottom_ND, crossed], dim=1)
        return self.output(self.top(self.dropout(top_in))).squeeze(-1)
