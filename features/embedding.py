"""Embedding tables: Merlin Models' `EmbeddingTables`, with lists pooled over their real elements only."""

from __future__ import annotations

from typing import Any, cast

import torch
from merlin.models.torch import EmbeddingTable, EmbeddingTables
from merlin.schema import Schema, Tags
from torch import nn

from features.row_sums import RowSums
from features.schema import PADDING, num_categories, select

# B rows  L list length  D embedding

WHOLE_UP_TO = 1_000
"""Rows of a table that a step may as well touch whole: its gradient stays dense."""


class PooledEmbeddingTable(EmbeddingTable):
    """Merlin's table, whose mean over a list leaves the padding out (the stock one averages it in)."""

    def create_table(self) -> nn.Module:
        table = cast(nn.Embedding, super().create_table())
        nn.init.normal_(table.weight, std=table.embedding_dim**-0.5)
        return table

    @property
    def row_sums(self) -> RowSums:
        """Kept from step to step: it has a note for every row."""
        num_rows = len(cast(nn.Embedding, self.table).weight)
        if getattr(self, "_row_sums", None) is None or self._row_sums.num_rows != num_rows:
            self._row_sums = RowSums(num_rows)
        return self._row_sums

    def forward_bag(self, inputs: torch.Tensor, offsets: torch.Tensor | None = None) -> torch.Tensor:
        table = cast(nn.Embedding, self.table)
        return mean_without_padding(table.weight, inputs, self.row_sums if table.sparse else None)

    def sequence(self, row_BL: torch.Tensor) -> torch.Tensor:
        """[B, L, D] the vectors of lists one by one; what stands at padding is never trained."""
        table = cast(nn.Embedding, self.table)
        if torch.onnx.is_in_onnx_export():  # a padding index has no ONNX form, and only matters to the gradient
            return nn.functional.embedding(row_BL, table.weight)
        return nn.functional.embedding(row_BL, table.weight, padding_idx=PADDING, sparse=table.sparse)


def mean_without_padding(
    weight_RD: torch.Tensor, row_BL: torch.Tensor, row_sums: RowSums | None = None
) -> torch.Tensor:
    """[B, D] means over lists without their padding; zeros where a list has nothing else.

    Args:
        row_sums: of R rows, makes the gradient of the weights a sparse one; None for a dense one.
    """
    if torch.onnx.is_in_onnx_export():
        # embedding_bag with a padding index has no ONNX form; this is the same mean, written out.
        real_BL1 = (row_BL != PADDING).unsqueeze(-1).to(weight_RD.dtype)
        sum_BD = (nn.functional.embedding(row_BL, weight_RD) * real_BL1).sum(1)
        return sum_BD / real_BL1.sum(1).clamp(min=1)
    if row_sums and weight_RD.requires_grad and torch.is_grad_enabled():
        return cast(torch.Tensor, _SparseMean.apply(weight_RD, row_BL, row_sums))
    return nn.functional.embedding_bag(row_BL, weight_RD, mode="mean", padding_idx=PADDING)


class _SparseMean(torch.autograd.Function):
    """Means over lists without their padding, with a sparse gradient."""

    @staticmethod
    def forward(ctx: Any, weight_RD: torch.Tensor, row_BL: torch.Tensor, row_sums: RowSums) -> torch.Tensor:
        ctx.save_for_backward(row_BL)
        ctx.shape, ctx.row_sums = weight_RD.shape, row_sums
        return nn.functional.embedding_bag(row_BL, weight_RD, mode="mean", padding_idx=PADDING)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        (row_BL,) = ctx.saved_tensors
        row_U, sum_UD = ctx.row_sums.of_means(row_BL, gradients[0], PADDING)
        rows, sums = torch.from_numpy(row_U).unsqueeze(0), torch.from_numpy(sum_UD)
        return torch.sparse_coo_tensor(rows, sums, ctx.shape, check_invariants=False), None, None


def embedding_tables(schema: Schema, dim: int) -> EmbeddingTables:
    """One table per domain (history and item_id share one) for the categorical columns of a schema.

    Called with a dict of [B] or [B, L] ids, it returns a dict of [B, dim] vectors for the features it was given.
    """
    categorical = select(schema, Tags.CATEGORICAL)
    for column in categorical:
        num_categories(column)
    return EmbeddingTables(dim, categorical, table_cls=PooledEmbeddingTable, seq_combiner="mean")


def table_of(tables: EmbeddingTables, name: str) -> PooledEmbeddingTable:
    """The table that holds the vectors of a feature."""
    column = cast(Schema, tables.schema)[name]
    return cast(PooledEmbeddingTable, cast(nn.Sequential, tables.branches[column.int_domain.name])[0])


def with_sparse_gradients(model: nn.Module) -> list[torch.Tensor]:
    """The weights of all embedding tables of a model; those of more than WHOLE_UP_TO rows get sparse gradients."""
    tables = [module for module in model.modules() if isinstance(module, nn.Embedding)]
    for table in tables:
        table.sparse = len(table.weight) > WHOLE_UP_TO  # num_embeddings is 0 where Merlin gave it a second feature
    return [table.weight for table in tables]
