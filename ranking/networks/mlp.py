"""A plain MLP over numbers and vectors side by side: the reference that interactions must beat."""

from __future__ import annotations

import torch
from merlin.models.torch import MLPBlock
from torch import nn

from ranking.config import NetworkConfig
from ranking.networks.network import Network

# N rows  F numbers  C vectors  D embedding


class Mlp(Network):
    """All inputs through layers with ReLU."""

    def __init__(self, config: NetworkConfig, num_numbers: int, num_vectors: int) -> None:
        super().__init__(config, num_numbers, num_vectors)
        self.dropout = nn.Dropout(config.dropout)
        self.layers = MLPBlock([*config.mlp.units])
        self.width = config.mlp.units[-1]
        self.take_shapes()

    def forward(self, number_NF: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        return self.layers(self.dropout(torch.cat([number_NF, vector_NCD.flatten(1)], dim=1)))
