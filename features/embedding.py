"""Embedding tables: Merlin Models' `EmbeddingTables`, with lists pooled over their real elements only."""

from __future__ import annotations

from typing import cast

import torch
from merlin.models.torch import EmbeddingTable, EmbeddingTables
from merlin.schema import Schema, Tags
from torch import nn

from features.schema import PADDING, num_categories, select

# B rows  L list length  D embedding


class PooledEmbeddingTable(EmbeddingTable):
    """Merlin's table, whose mean over a list leaves the padding out (the stock one averages it in)."""

    def create_table(self) -> nn.Module:
        table = cast(nn.Embedding, super().create_table())
        nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
        return table

    def forward_bag(self, inputs: torch.Tensor, offsets: torch.Tensor | None = None) -> torch.Tensor:
        table = cast(nn.Embedding, self.table)
        if not torch.onnx.is_in_onnx_export():
            return nn.functional.embedding_bag(inputs, table.weight, mode="mean", padding_idx=PADDING)
        # embedding_bag with a padding index has no ONNX form; this is the same mean, written out.
        real_BL1 = (inputs != PADDING).unsqueeze(-1).to(table.weight.dtype)
        sum_BD = (table(inputs) * real_BL1).sum(1)
        return sum_BD / real_BL1.sum(1).clamp(min=1)


def embedding_tables(schema: Schema, dim: int) -> EmbeddingTables:
    """One table per domain (history and item_id share one) for the categorical columns of a schema.

    Called with a dict of [B] or [B, L] ids, it returns a dict of [B, dim] vectors for the features it was given.
    """
    categorical = select(schema, Tags.CATEGORICAL)
    for column in categorical:
        num_categories(column)
    return EmbeddingTables(dim, categorical, table_cls=PooledEmbeddingTable, seq_combiner="mean")
