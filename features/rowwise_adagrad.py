"""Row-wise Adagrad for embedding tables: one accumulator a row, a step touches the batch's rows.

Source: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011;
with the mean square of a row's gradient in place of each element's, as fbgemm and TorchRec train tables.
"""

from __future__ import annotations

from collections.abc import Iterable

import numba
import numpy as np
import torch
from torch.optim import Optimizer

from features.row_sums import RowSums

# R rows of the table  U distinct rows of a batch  D embedding

EPSILON = 1e-10


class RowwiseAdagrad(Optimizer):
    """sum_r += mean(g_r^2); w_r -= lr * g_r / (sqrt(sum_r) + EPSILON).

    Args:
        parameters: tables [R, D] in float32. Where the gradient is sparse, as `nn.Embedding(sparse=True)` gives it, the
            step touches its rows only; a dense one, fit for a small table, gives the same table.
        learning_rate: step size.
    """

    def __init__(self, parameters: Iterable[torch.Tensor], learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate})
        self._row_sums: dict[torch.Tensor, RowSums] = {}
        for group in self.param_groups:
            for table_RD in group["params"]:
                self.state[table_RD]["sum"] = torch.zeros(len(table_RD))
                self._row_sums[table_RD] = RowSums(len(table_RD))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for table_RD in group["params"]:
                if table_RD.grad is None:
                    continue
                sum_R, gradient = self.state[table_RD]["sum"], table_RD.grad
                if gradient.is_sparse:
                    row_U, gradient_UD = self._row_sums[table_RD](gradient._indices()[0], gradient._values())
                    _descend(table_RD.detach().numpy(), sum_R.numpy(), row_U, gradient_UD, group["lr"])
                else:
                    sum_R += gradient.square().mean(1)
                    table_RD -= group["lr"] * gradient / (sum_R.sqrt() + EPSILON).unsqueeze(1)


@numba.njit(nogil=True, cache=True, fastmath={"reassoc"})  # so that the mean square is taken in vector registers
def _descend(
    table_RD: np.ndarray, sum_R: np.ndarray, row_U: np.ndarray, gradient_UD: np.ndarray, learning_rate: float
) -> None:
    dim = table_RD.shape[1]
    for place, row in enumerate(row_U):
        gradient_D = gradient_UD[place]
        total = np.float32(0)
        for d in range(dim):
            total += gradient_D[d] * gradient_D[d]
        sum_R[row] += total / np.float32(dim)
        step = np.float32(learning_rate / (np.sqrt(sum_R[row]) + EPSILON))
        for d in range(dim):
            table_RD[row, d] -= step * gradient_D[d]
