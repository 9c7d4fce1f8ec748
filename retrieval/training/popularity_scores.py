"""The share of the popularity in a step's scores, without the array [B, C, P] of every row's popularity of every item.

Rows of one moment see the same popularity, and there are few moments. Spread out to the rows, it is the largest array
of a training step: gathering it and multiplying it took 10 ms of 37, this takes 1.
"""

from __future__ import annotations

from typing import Any, cast

import numba
import numpy as np
import torch

# B rows  M moments  C items  P popularity coordinates


def popularity_scores(popularity_MCP: torch.Tensor, moment_B: torch.Tensor, weight_BP: torch.Tensor) -> torch.Tensor:
    """[B, C] sum_p weight_bp popularity_mcp, m the row's moment; differentiable in the weights.

    Args:
        popularity_MCP: float32.
        moment_B: index of each row's moment.
        weight_BP: float32.
    """
    return cast(torch.Tensor, _PopularityScores.apply(weight_BP, popularity_MCP.transpose(1, 2).contiguous(), moment_B))


class _PopularityScores(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, weight_BP: torch.Tensor, popularity_MPC: torch.Tensor, moment_B: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(popularity_MPC, moment_B)
        return torch.from_numpy(_scores(weight_BP.detach().numpy(), popularity_MPC.numpy(), moment_B.numpy()))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        popularity_MPC, moment_B = ctx.saved_tensors
        gradient_BC = gradients[0].contiguous().numpy()
        return torch.from_numpy(_gradients(gradient_BC, popularity_MPC.numpy(), moment_B.numpy())), None, None


@numba.njit(nogil=True, cache=True)
def _scores(weight_BP: np.ndarray, popularity_MPC: np.ndarray, moment_B: np.ndarray) -> np.ndarray:
    num_rows, num_coordinates = weight_BP.shape
    score_BC = np.zeros((num_rows, popularity_MPC.shape[2]), np.float32)
    for row in range(num_rows):
        score_C = score_BC[row]
        for p in range(num_coordinates):
            weight, popularity_C = weight_BP[row, p], popularity_MPC[moment_B[row], p]
            for c in range(len(score_C)):
                score_C[c] += weight * popularity_C[c]
    return score_BC


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})  # so that the sum over items is taken in vector registers
def _gradients(gradient_BC: np.ndarray, popularity_MPC: np.ndarray, moment_B: np.ndarray) -> np.ndarray:
    to_weight_BP = np.empty((len(gradient_BC), popularity_MPC.shape[1]), np.float32)
    for row in range(len(gradient_BC)):
        gradient_C = gradient_BC[row]
        for p in range(to_weight_BP.shape[1]):
            popularity_C, total = popularity_MPC[moment_B[row], p], np.float32(0)
            for c in range(len(gradient_C)):
                total += gradient_C[c] * popularity_C[c]
            to_weight_BP[row, p] = total
    return to_weight_BP
