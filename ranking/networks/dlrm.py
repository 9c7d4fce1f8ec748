"""DLRM: numbers through a bottom MLP, all pairwise dot products with the categories' vectors, a top MLP.

Source: Naumov et al., "Deep learning recommendation model for personalization and recommendation systems", 2019.
"""

from __future__ import annotations

import torch
from merlin.models.torch import MLPBlock
from torch import nn

from ranking.config import NetworkConfig
from ranking.networks.network import Network
from ranking.networks.pair_products import PairProducts

# N rows  F numbers  C vectors  D embedding  V = C + 1 vectors with that of the numbers


class DlrmNetwork(Network):
    """The top MLP reads the bottom MLP's output, the V (V - 1) / 2 products and, if so told, one scalar per vector."""

    def __init__(self, config: NetworkConfig, num_numbers: int, num_vectors: int) -> None:
        super().__init__(config, num_numbers, num_vectors)
        self.has_pooled_scalars = config.dlrm.pooled_scalars
        self.bottom = MLPBlock([*config.dlrm.bottom_units, config.embedding_dim])
        self.products = PairProducts(1 + num_vectors)
        self.dropout = nn.Dropout(config.dropout)
        self.top = MLPBlock([*config.dlrm.top_units])
        self.width = config.dlrm.top_units[-1]
        self.take_shapes()

    def forward(self, number_NF: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        bottom_ND = self.bottom(number_NF)
        parts = [bottom_ND, self.products(bottom_ND, vector_NCD)]
        if self.has_pooled_scalars:
            parts += [bottom_ND.mean(1, keepdim=True), vector_NCD.mean(2)]
        return self.top(self.dropout(torch.cat(parts, dim=1)))
