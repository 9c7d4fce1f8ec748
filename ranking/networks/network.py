"""The contract of a ranker's network."""

from __future__ import annotations

import torch
from torch import nn

from ranking.config import NetworkConfig

# N rows  F numbers  C vectors  D embedding  H outputs


class Network(nn.Module):
    """Numbers and vectors in, H outputs out, of which the ranker's output layer makes one logit.

    Args:
        num_numbers: F.
        num_vectors: C; each has `config.embedding_dim` elements.
    """

    width: int
    """H."""

    def __init__(self, config: NetworkConfig, num_numbers: int, num_vectors: int) -> None:
        super().__init__()
        self.num_numbers, self.num_vectors, self.dim = num_numbers, num_vectors, config.embedding_dim

    def forward(self, number_NF: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        """[N, H]."""
        raise NotImplementedError

    def take_shapes(self) -> None:
        """Run once on zeros: Merlin's layers take their shapes from the first batch."""
        with torch.no_grad():
            self(torch.zeros(2, self.num_numbers), torch.zeros(2, self.num_vectors, self.dim))
