"""Factorization machine: a weight per feature and a product per pair of features.

Source: Rendle, "Factorization machines", ICDM 2010, equation 1, and its Lemma 3.1 for the sum in linear time.
"""

from __future__ import annotations

import torch
from torch import nn

from ranking.config import NetworkConfig
from ranking.networks.network import Network

# N rows  F numbers  C vectors  D embedding


class FactorizationMachine(Network):
    """Two outputs, the sum of the weights and the sum of the products.

    The first element of a category's vector is its weight, the others are its factors. A number has a vector of its
    own, which it multiplies.
    """

    width = 2

    def __init__(self, config: NetworkConfig, num_numbers: int, num_vectors: int) -> None:
        super().__init__(config, num_numbers, num_vectors)
        self.number_FD = nn.Parameter(torch.randn(num_numbers, self.dim) * self.dim**-0.5 / 10)

    def forward(self, number_NF: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        all_NVD = torch.cat([number_NF.unsqueeze(2) * self.number_FD, vector_NCD], dim=1)
        weight_NV, factor_NVD = all_NVD[..., 0], all_NVD[..., 1:]
        product_N = (factor_NVD.sum(1).square() - factor_NVD.square().sum(1)).sum(1) / 2
        return torch.stack([weight_NV.sum(1), product_N], dim=1)
