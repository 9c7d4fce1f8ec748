"""What a user took before as one vector, for the query tower: the seam, and its kinds.

A kind is a class and a line in `query_encoder`. It reads the vectors of the history from the items' own table, so that
history and items live in one space.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Literal

import torch
from torch import nn

from features.as_of import HISTORY, HISTORY_GAP
from features.batches import Batch
from features.embedding import PooledEmbeddingTable
from retrieval.history_attention import history_attention

# B users  N history length, newest first  D embedding  H heads  G gap categories
QueryEncoderKind = Literal["pooled", "attention"]
NUM_HEADS = 4
INITIAL_SCALE = 0.1
"""Size of the untrained positions, gaps and queries, of their usual 1."""


class QueryEncoder(nn.Module, ABC):
    """A history as one vector; zeros for a user who has none.

    A row's result depends on that row alone.
    """

    inputs: tuple[str, ...]
    """Features of the batch that it reads."""

    @abstractmethod
    def forward(self, table: PooledEmbeddingTable, batch: Batch) -> torch.Tensor:
        """[B, D] of a batch with `inputs` [B, N].

        Args:
            table: the items' vectors. It comes with the call: whose weights they are is the model's affair.
        """


class PooledHistory(QueryEncoder):
    """The mean of the items' vectors. Source: Covington et al., RecSys 2016."""

    inputs = (HISTORY,)

    def forward(self, table: PooledEmbeddingTable, batch: Batch) -> torch.Tensor:
        return table.forward_bag(batch[HISTORY])


class AttentiveHistory(QueryEncoder):
    """Attention over the items, with their places and the time gaps between them; untrained, it is near the mean.

    x_n = item_n + position_n + gap_n,  weight_hn = softmax_n(query_h . x_n / sqrt(D)),
    query_h = learned_h + Q_h item_newest,  result = sum_h V_h sum_n weight_hn x_n

    Keys and values are usually projected first, which costs 2 N matrix products a user. Both projections are linear, so
    the keys' is part of the query's here, and the values' comes after the sum: the same functions for H + 1 products.

    Source: Vaswani et al., "Attention is all you need", NeurIPS 2017, section 3.2; Li, Wang & McAuley, "Time interval
    aware self-attention for sequential recommendation", WSDM 2020 (positions and intervals in keys and values; there
    between all pairs, here between neighbours).

    Args:
        dim: D, of the items' vectors.
        history_length: N.
        num_gaps: G, padding included.
    """

    inputs = (HISTORY, HISTORY_GAP)

    def __init__(self, dim: int, history_length: int, num_gaps: int) -> None:
        super().__init__()

        def initial(num: int) -> nn.Parameter:
            return nn.Parameter(torch.randn(num, dim) * INITIAL_SCALE * dim**-0.5)

        # Parameters and no nn.Embedding: small, touched whole by every batch, so moved like the layers, not the tables.
        self.position_ND, self.gap_GD, self.query_HD = initial(history_length), initial(num_gaps), initial(NUM_HEADS)
        self.query_of_newest = nn.Linear(dim, NUM_HEADS * dim, bias=False)
        self.value = nn.Linear(NUM_HEADS * dim, dim, bias=False)
        with torch.no_grad():
            self.query_of_newest.weight.zero_()
            self.value.weight.copy_(torch.eye(dim).repeat(1, NUM_HEADS) / NUM_HEADS)

    def forward(self, table: PooledEmbeddingTable, batch: Batch) -> torch.Tensor:
        row_BN, gap_BN = batch[HISTORY], batch[HISTORY_GAP]
        newest_BD = table.sequence(row_BN[:, :1]).squeeze(1)
        query_BHD = self.query_HD + self.query_of_newest(newest_BD).reshape(-1, *self.query_HD.shape)
        query_BHD = query_BHD / math.sqrt(newest_BD.shape[-1])
        pooled_BHD = history_attention(table, row_BN, gap_BN, self.position_ND, self.gap_GD, query_BHD)
        return self.value(pooled_BHD.flatten(1))


def query_encoder(kind: QueryEncoderKind, dim: int, history_length: int, num_gaps: int) -> QueryEncoder:
    """An untrained encoder of a kind; the arguments are those of `AttentiveHistory`."""
    if kind == "pooled":
        return PooledHistory()
    return AttentiveHistory(dim, history_length, num_gaps)
