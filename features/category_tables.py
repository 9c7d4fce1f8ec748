"""Vectors of categories, behind one seam: tables that an optimizer steps, or that step in the backward pass.

Both keep one table per domain under the domain's name, so that weights saved by one load into the other.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import torch
from merlin.schema import Schema, Tags
from torch import nn

from features.embedding import mean_without_padding
from features.errors import CascadeError
from features.row_sums import RowSums
from features.schema import num_categories, select

# N rows  C features  L list length  D embedding  R rows of a table

Kind = Literal["auto", "fused", "plain"]

FUSED_FROM_ROWS = 50_000
"""Rows of all tables from which `auto` fuses them. Below, both take about the same time, and fbgemm's import 0.6 s."""


class TableLayoutError(CascadeError, ValueError):
    """The tables cannot be of the kind that was asked for."""


class CategoryTables(nn.Module):
    """A batch of ids in, [N, C, D] vectors out; a list [N, L] gives the mean of its elements without padding.

    Args:
        schema: the categorical columns are read; features of one domain share its table.
        dim: D.
    """

    def __init__(self, schema: Schema, dim: int) -> None:
        super().__init__()
        categorical = select(schema, Tags.CATEGORICAL)
        self.dim = dim
        self.features = categorical.column_names
        self.domain_of = {column.name: _domain(column) for column in categorical}
        self.num_rows: dict[str, int] = {}
        for column in categorical:
            domain = _domain(column)
            self.num_rows[domain] = max(self.num_rows.get(domain, 0), num_categories(column))

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """[N, C, D], features in schema order."""
        raise NotImplementedError

    def weights(self) -> dict[str, torch.Tensor]:
        """[R, D] by domain; what is written into them counts."""
        raise NotImplementedError

    def sparse_parameters(self) -> list[nn.Parameter]:
        """What an optimizer for sparse gradients has to step; nothing where the backward pass does."""
        raise NotImplementedError

    def set_learning_rate(self, rate: float) -> None:
        """Step size where the backward pass steps the tables; to be set before the forward pass, which notes it."""

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """By domain, what steps of the backward pass keep: [R] sums of mean squared gradients, the tensors in use."""
        return {}

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        """Take up what `optimizer_state` gave."""

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for domain, weight_RD in self.weights().items():
            destination[f"{prefix}{domain}.weight"] = weight_RD if keep_vars else weight_RD.detach()

    @torch.no_grad()
    def _load_from_state_dict(
        self,
        state_dict: Mapping[str, Any],
        prefix: str,
        local_metadata: Mapping[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        weights = self.weights()
        for domain, weight_RD in weights.items():
            name = f"{prefix}{domain}.weight"
            saved = state_dict.get(name)
            if saved is None:
                missing_keys.append(name)
            elif saved.shape != weight_RD.shape:
                error_msgs.append(f"table {domain!r} is {list(weight_RD.shape)}, but was saved as {list(saved.shape)}")
            else:
                weight_RD.copy_(saved)
        if strict:
            known = {f"{prefix}{domain}.weight" for domain in weights}
            unexpected_keys += [name for name in state_dict if name.startswith(prefix) and name not in known]


class PlainTables(CategoryTables):
    """A parameter per domain, with sparse gradients for `RowwiseAdagrad` to step."""

    def __init__(self, schema: Schema, dim: int) -> None:
        super().__init__(schema, dim)
        for place, num_rows in enumerate(self.num_rows.values()):
            self.register_parameter(f"table_{place}", nn.Parameter(torch.zeros(num_rows, dim)))
        self._row_sums = {domain: RowSums(num_rows) for domain, num_rows in self.num_rows.items()}

    def weights(self) -> dict[str, torch.Tensor]:
        return dict(zip(self.num_rows, self.sparse_parameters(), strict=True))

    def sparse_parameters(self) -> list[nn.Parameter]:
        return list(self.parameters())

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        weights = self.weights()
        return torch.stack([self._vector(weights, name, batch[name]) for name in self.features], dim=1)

    def _vector(self, weights: Mapping[str, torch.Tensor], name: str, ids: torch.Tensor) -> torch.Tensor:
        domain = self.domain_of[name]
        if ids.dim() > 1:
            return mean_without_padding(weights[domain], ids.long(), self._row_sums[domain])
        return nn.functional.embedding(ids, weights[domain], sparse=not torch.onnx.is_in_onnx_export())


def category_tables(schema: Schema, dim: int, kind: Kind = "auto") -> CategoryTables:
    """Tables of zeros.

    Args:
        kind: "fused" for fbgemm's tables, "plain" for torch's, "auto" for fused ones where they pay off: fbgemm loads,
            `dim` is a multiple of 4, and the tables have at least FUSED_FROM_ROWS rows.
    Raises: TableLayoutError if fused tables were asked for and cannot be made.
    """
    if kind == "plain":
        return PlainTables(schema, dim)
    if kind == "auto":
        plain = CategoryTables(schema, dim)
        if dim % 4 or sum(plain.num_rows.values()) < FUSED_FROM_ROWS:
            return PlainTables(schema, dim)
    elif dim % 4:
        raise TableLayoutError(
            f"fused tables need vectors whose width is a multiple of 4, got embedding_dim {dim}; change "
            'ranking.network.embedding_dim, or set ranking.network.tables = "plain"'
        )
    from features import fused_tables

    try:
        fused_tables.load_fbgemm()
    except fused_tables.FbgemmError as error:
        if kind == "auto":
            return PlainTables(schema, dim)
        raise TableLayoutError(str(error)) from error
    return fused_tables.FusedTables(schema, dim)


def _domain(column: Any) -> str:
    num_categories(column)  # refuses a column without a domain by name
    return column.int_domain.name or column.name
