"""Softmax attention over the items of a history, a user at a time.

Written with tensors, a training step of 512 histories of 50 moves a dozen arrays of [512, 50, 64], and takes two (full
histories) to four times as long (40 % full). Here one user's vectors are together at a time, padding is left out, and
memory does not grow with the users.
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
import torch
from torch import nn

from features.embedding import PooledEmbeddingTable
from features.schema import PADDING

# B users  N history length  M its real elements  D embedding  H heads  G gap categories  R rows of the table


def history_attention(
    table: PooledEmbeddingTable,
    row_BN: torch.Tensor,
    gap_BN: torch.Tensor,
    position_ND: torch.Tensor,
    gap_GD: torch.Tensor,
    query_BHD: torch.Tensor,
) -> torch.Tensor:
    """[B, H, D] float32: sum_n softmax_n(query_h . x_n) x_n, where x_n = item_n + position_n + gap_n.

    Over what is no padding; zeros where all is padding. A row's result depends on that row alone.

    Args:
        row_BN, gap_BN: items of the history, rows of the table, and gap categories.
    """
    if torch.onnx.is_in_onnx_export():
        vector_BND = table.sequence(row_BN) + position_ND + nn.functional.embedding(gap_BN, gap_GD)
        return tensor_attention(vector_BND, row_BN != PADDING, query_BHD)
    operands = (row_BN, gap_BN, position_ND, gap_GD, query_BHD.float())
    return cast(torch.Tensor, _Attention.apply(cast(nn.Embedding, table.table).weight, *operands, table))


def tensor_attention(x_BND: torch.Tensor, is_real_BN: torch.Tensor, query_BHD: torch.Tensor) -> torch.Tensor:
    """The same with tensors, which is what can be exported; x is the sum of the three vectors."""
    is_real_B1N = is_real_BN.unsqueeze(1)
    score_BHN = (query_BHD @ x_BND.transpose(1, 2)).masked_fill(~is_real_B1N, torch.finfo(x_BND.dtype).min)
    return (score_BHN.softmax(-1) * is_real_B1N) @ x_BND


class _Attention(torch.autograd.Function):
    """The loops below, with a sparse gradient for a table that has such."""

    @staticmethod
    def forward(ctx: Any, weight_RD: torch.Tensor, *operands: Any) -> torch.Tensor:
        *tensors, ctx.table = operands
        arrays = [tensor.detach().contiguous().numpy() for tensor in (weight_RD, *tensors)]
        pooled_BHD, ctx.share_BHN = _attend(*arrays)
        ctx.arrays = arrays
        return torch.from_numpy(pooled_BHD)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        gradient_BHD = gradients[0].float().contiguous().numpy()
        row_M, x_MD, *others = _gradients(ctx.share_BHN, gradient_BHD, *ctx.arrays)
        row_U, sum_UD = ctx.table.row_sums(torch.from_numpy(row_M), torch.from_numpy(x_MD))
        rows, sums, shape = torch.from_numpy(row_U).unsqueeze(0), torch.from_numpy(sum_UD), ctx.arrays[0].shape
        table = torch.sparse_coo_tensor(rows, sums, shape, check_invariants=False)
        table = table if ctx.table.table.sparse else table.to_dense()
        return table, None, None, *map(torch.from_numpy, others), None


@numba.njit(nogil=True, cache=True)
def _attend(weight_RD, row_BN, gap_BN, position_ND, gap_GD, query_BHD):
    """The result [B, H, D], and the shares [B, H, N] of the real elements, which stand first."""
    num_users, num_heads, _ = query_BHD.shape
    x_ND, place_N = np.empty(position_ND.shape, np.float32), np.empty(len(position_ND), np.int64)
    share_BHN = np.zeros((num_users, num_heads, len(position_ND)), np.float32)
    pooled_BHD = np.zeros(query_BHD.shape, np.float32)
    for user in range(num_users):
        num_real = _gather(weight_RD, row_BN[user], gap_BN[user], position_ND, gap_GD, x_ND, place_N)
        if num_real:
            share_HM = np.dot(query_BHD[user], x_ND[:num_real].T)
            for head in range(num_heads):
                _softmax(share_HM[head])
            np.dot(share_HM, x_ND[:num_real], pooled_BHD[user])
            share_BHN[user, :, :num_real] = share_HM
    return pooled_BHD, share_BHN


@numba.njit(nogil=True, cache=True)
def _gradients(share_BHN, gradient_BHD, weight_RD, row_BN, gap_BN, position_ND, gap_GD, query_BHD):
    """Rows [M of all users] and what goes to each [M, D]; then what goes to the positions, the gaps and the queries."""
    num_users, num_heads, dim = query_BHD.shape
    x_ND, place_N = np.empty(position_ND.shape, np.float32), np.empty(len(position_ND), np.int64)
    num_rows = (row_BN != PADDING).sum()
    row_M, to_x_MD = np.empty(num_rows, row_BN.dtype), np.empty((num_rows, dim), np.float32)
    to_position_ND, to_gap_GD = np.zeros(position_ND.shape, np.float32), np.zeros(gap_GD.shape, np.float32)
    to_query_BHD, begin = np.zeros(query_BHD.shape, np.float32), 0
    source_HD = np.empty((2 * num_heads, dim), np.float32)
    for user in range(num_users):
        num_real = _gather(weight_RD, row_BN[user], gap_BN[user], position_ND, gap_GD, x_ND, place_N)
        if num_real:
            x_MD, own_MD = x_ND[:num_real], to_x_MD[begin : begin + num_real]
            part_HM = np.empty((2 * num_heads, num_real), np.float32)
            share_HM, to_score_HM = part_HM[:num_heads], part_HM[num_heads:]
            share_HM[:] = share_BHN[user, :, :num_real]
            np.dot(gradient_BHD[user], x_MD.T, to_score_HM)
            for head in range(num_heads):
                to_score_HM[head] -= np.sum(share_HM[head] * to_score_HM[head])
                to_score_HM[head] *= share_HM[head]
            np.dot(to_score_HM, x_MD, to_query_BHD[user])
            source_HD[:num_heads], source_HD[num_heads:] = gradient_BHD[user], query_BHD[user]
            np.dot(part_HM.T, source_HD, own_MD)
            for m in range(num_real):
                place = place_N[m]
                row_M[begin + m] = row_BN[user, place]
                own_D, position_D, gap_D = own_MD[m], to_position_ND[place], to_gap_GD[gap_BN[user, place]]
                for d in range(dim):
                    position_D[d] += own_D[d]
                    gap_D[d] += own_D[d]
            begin += num_real
    return row_M, to_x_MD, to_position_ND, to_gap_GD, to_query_BHD


@numba.njit(nogil=True, cache=True)
def _gather(weight_RD, row_N, gap_N, position_ND, gap_GD, x_ND, place_N):
    """The x of a user's real elements and their places in the history; how many they are."""
    num_real = 0
    for place in range(len(row_N)):
        if row_N[place] != PADDING:
            place_N[num_real] = place
            # Rows are taken out of the loop: numba would look each one up again for every d, six times slower.
            item_D, position_D, gap_D = weight_RD[row_N[place]], position_ND[place], gap_GD[gap_N[place]]
            x_D = x_ND[num_real]
            for d in range(len(x_D)):
                x_D[d] = item_D[d] + position_D[d] + gap_D[d]
            num_real += 1
    return num_real


@numba.njit(nogil=True, cache=True)
def _softmax(score_M):
    largest, total = score_M.max(), np.float32(0)
    for m in range(len(score_M)):
        score_M[m] = np.exp(score_M[m] - largest)
        total += score_M[m]
    for m in range(len(score_M)):
        score_M[m] /= total
