"""Dot products of all pairs of vectors, as DLRM takes them, at about half of the cost that autograd's way has.

The gradient of a Gram matrix Z = S S^T is (dZ + dZ^T) S: one product of matrices, where autograd, which does not know
that both factors are S, takes two and adds them up.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

# N rows  C vectors  D embedding  V = C + 1 vectors with that of the numbers  P = V (V - 1) / 2 pairs


class PairProducts(nn.Module):
    """[N, P] products of vectors i < j, ordered by i, then j; vector 0 is `first_ND`.

    Under autocast, the products are taken in its type.

    Args:
        num_vectors: V.
    """

    def __init__(self, num_vectors: int) -> None:
        super().__init__()
        one_P, other_P = torch.triu_indices(num_vectors, num_vectors, offset=1)
        pair_VV = torch.full([num_vectors, num_vectors], len(one_P))  # on the diagonal: a place behind the pairs
        pair_VV[one_P, other_P] = pair_VV[other_P, one_P] = torch.arange(len(one_P))
        self.place_P: torch.Tensor
        self.pair_Q: torch.Tensor
        self.register_buffer("place_P", one_P * num_vectors + other_P, persistent=False)
        self.register_buffer("pair_Q", pair_VV.flatten(), persistent=False)

    def forward(self, first_ND: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        if torch.onnx.is_in_onnx_export():
            return _products(torch.cat([first_ND.unsqueeze(1), vector_NCD], dim=1), self.place_P)
        return _PairProducts.apply(first_ND, vector_NCD, self.place_P, self.pair_Q)


class _PairProducts(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, first_ND: torch.Tensor, vector_NCD: torch.Tensor, place_P: torch.Tensor, pair_Q: torch.Tensor
    ) -> torch.Tensor:
        num_rows, num_others, dim = vector_NCD.shape
        stacked_NVD = vector_NCD.new_empty(num_rows, num_others + 1, dim, dtype=_product_dtype(vector_NCD))
        stacked_NVD[:, 0] = first_ND
        stacked_NVD[:, 1:] = vector_NCD
        ctx.save_for_backward(stacked_NVD, pair_Q)
        ctx.dtypes = first_ND.dtype, vector_NCD.dtype
        return _products(stacked_NVD, place_P)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None, None]:
        stacked_NVD, pair_Q = ctx.saved_tensors
        num_rows, num_vectors, _ = stacked_NVD.shape
        padded = nn.functional.pad(_at_least_float32(gradients[0]), (0, 1))  # a zero for the diagonal
        both_NVV = padded.index_select(1, pair_Q).view(num_rows, num_vectors, num_vectors).to(stacked_NVD.dtype)
        # In two: the tables' backward pass wants its part in one piece.
        first_ND = torch.bmm(both_NVV[:, :1], stacked_NVD).squeeze(1)
        vector_NCD = torch.bmm(both_NVV[:, 1:], stacked_NVD)
        return first_ND.to(ctx.dtypes[0]), vector_NCD.to(ctx.dtypes[1]), None, None


def _products(stacked_NVD: torch.Tensor, place_P: torch.Tensor) -> torch.Tensor:
    return torch.bmm(stacked_NVD, stacked_NVD.transpose(1, 2)).flatten(1).index_select(1, place_P)


def _product_dtype(vector_NCD: torch.Tensor) -> torch.dtype:
    kind = vector_NCD.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else vector_NCD.dtype


def _at_least_float32(values: torch.Tensor) -> torch.Tensor:
    """Wide enough for torch's fast way of picking columns."""
    return values.float() if values.element_size() < 4 else values
