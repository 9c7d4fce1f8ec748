"""fbgemm's embedding tables: one look-up for all features, and a backward pass that steps the rows it touches.

No gradient of a table is ever written down. The step is row-wise Adagrad with the formula of `RowwiseAdagrad`, epsilon
included, and each row's gradients are summed over the batch before it, so both train the same tables.

Source: Khudia et al., "FBGEMM", 2021, and Mudigere et al., "Software-hardware co-design for fast and scalable training
of deep learning recommendation models", ISCA 2022, section 4.1.1 (fused exact row-wise Adagrad).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from merlin.schema import Schema
from torch import nn

from features.category_tables import CategoryTables
from features.embedding import mean_without_padding
from features.errors import CascadeError
from features.rowwise_adagrad import EPSILON
from features.schema import PADDING

# N rows  C features  L list length  D embedding  R rows of a table  T ids of a batch  B bags


class FbgemmError(CascadeError, ImportError):
    """fbgemm cannot be used here."""


class FusedTables(CategoryTables):
    """As `CategoryTables`; the backward pass steps the tables with the rate set before its forward pass, at first 0.

    Args:
        dim: D, a multiple of 4.
        device: where the tables are and vectors come out; the GPU's way through fbgemm has not been run.
    Raises: FbgemmError.
    """

    def __init__(self, schema: Schema, dim: int, device: str = "cpu") -> None:
        super().__init__(schema, dim)
        self._device = torch.device(device)
        tables = _tables(self.num_rows, dim, [*self.domain_of.values()], self._device)
        # Not a submodule: its weights are parameters, and no optimizer may step them a second time.
        self._tables = (tables,)
        self._weights = dict(zip(self.num_rows, tables.split_embedding_weights(), strict=True))
        self._offsets = torch.empty(0, dtype=torch.int64)

    def weights(self) -> dict[str, torch.Tensor]:
        return self._weights

    def sparse_parameters(self) -> list[nn.Parameter]:
        return []

    def set_learning_rate(self, rate: float) -> None:
        self._tables[0].set_learning_rate(rate)

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        states = self._tables[0].split_optimizer_states()
        return {domain: sum_R for domain, (sum_R, *_) in zip(self.num_rows, states, strict=True)}

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        for domain, sum_R in self.optimizer_state().items():
            sum_R.copy_(state[domain])

    def forward(self, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        columns = [batch[name] for name in self.features]
        if torch.onnx.is_in_onnx_export():
            return torch.stack([self._vector(*pair) for pair in zip(self.features, columns, strict=True)], dim=1)
        if all(ids.dim() == 1 for ids in columns):
            return self._sums(torch.cat(columns), self._ends(len(columns) * len(columns[0])))
        real = [ids != PADDING if ids.dim() > 1 else torch.ones_like(ids, dtype=torch.bool) for ids in columns]
        length_CN = torch.stack([mask if mask.dim() == 1 else mask.sum(1) for mask in real])
        id_T = torch.cat([ids[mask] for ids, mask in zip(columns, real, strict=True)])
        offset_T = nn.functional.pad(length_CN.flatten().cumsum(0), (1, 0))
        # fbgemm's own means are four times slower on a CPU than its sums.
        return self._sums(id_T, offset_T) / length_CN.t().clamp(min=1).unsqueeze(2).to(self._device)

    def _sums(self, id_T: torch.Tensor, offset_B: torch.Tensor) -> torch.Tensor:
        """[N, C, D] sums over bags.

        Args:
            id_T: all ids, feature by feature.
            offset_B: where each of the C N bags begins, and where the last one ends.
        """
        vector_NX = self._tables[0](id_T.long().to(self._device), offset_B.to(self._device))
        return vector_NX.view(-1, len(self.features), self.dim)

    def _ends(self, num_bags: int) -> torch.Tensor:
        """Offsets of bags of one id each."""
        if len(self._offsets) != num_bags + 1:
            self._offsets = torch.arange(num_bags + 1)
        return self._offsets

    def _vector(self, name: str, ids: torch.Tensor) -> torch.Tensor:
        """[N, D], from operators that ONNX has."""
        weight_RD = self._weights[self.domain_of[name]]
        return mean_without_padding(weight_RD, ids) if ids.dim() > 1 else nn.functional.embedding(ids, weight_RD)


def load_fbgemm() -> Any:
    """fbgemm's training tables.

    Raises: FbgemmError if it is missing, or was built for another torch.
    """
    try:
        import fbgemm_gpu  # noqa: F401  (loads its operators)
        from fbgemm_gpu import split_table_batched_embeddings_ops_training as training
    except (ImportError, OSError) as error:
        raise FbgemmError(
            f"fused tables need fbgemm-gpu-cpu 1.8.0, which goes with torch 2.13.0, and it cannot be loaded ({error}) "
            f'with torch {torch.__version__}; install requirements.lock, or set ranking.network.tables = "plain"'
        ) from error
    return training


def _tables(num_rows: Mapping[str, int], dim: int, domains: list[str], device: torch.device) -> Any:
    training = load_fbgemm()
    is_cpu = device.type == "cpu"
    place = training.EmbeddingLocation.HOST if is_cpu else training.EmbeddingLocation.DEVICE
    unit = training.ComputeDevice.CPU if is_cpu else training.ComputeDevice.CUDA
    number = {domain: place for place, domain in enumerate(num_rows)}
    tables = training.SplitTableBatchedEmbeddingBagsCodegen(
        [(rows, dim, place, unit) for rows in num_rows.values()],
        feature_table_map=[number[domain] for domain in domains],
        optimizer=training.OptimType.EXACT_ROWWISE_ADAGRAD,
        learning_rate=0.0,
        eps=EPSILON,
        pooling_mode=training.PoolingMode.SUM,
        stochastic_rounding=False,
        bounds_check_mode=training.BoundsCheckMode.FATAL,
        device=device,
    )
    for weight_RD in tables.split_embedding_weights():
        weight_RD.zero_()
    return tables
