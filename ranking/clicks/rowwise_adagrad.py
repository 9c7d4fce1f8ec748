"""Row-wise Adagrad for embedding tables with sparse gradients: one accumulator a row, a step touches the batch's rows.

Source: Duchi, Hazan & Singer, "Adaptive subgradient methods for online learning and stochastic optimization", 2011;
with the mean square of a row's gradient in place of each element's, as fbgemm and TorchRec train tables.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn
from torch.optim import Optimizer

# R rows of the table  U distinct rows of a batch  D embedding

EPSILON = 1e-10


class RowwiseAdagrad(Optimizer):
    """sum_r += mean(g_r^2); w_r -= lr * g_r / (sqrt(sum_r) + EPSILON).

    Args:
        parameters: tables [R, D] whose gradients are sparse, as `nn.Embedding(sparse=True)` gives them.
        learning_rate: step size.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], learning_rate: float) -> None:
        super().__init__(parameters, {"lr": learning_rate})
        for group in self.param_groups:
            for table_RD in group["params"]:
                self.state[table_RD]["sum"] = torch.zeros(len(table_RD))

    @torch.no_grad()
    def step(self, closure: None = None) -> None:
        for group in self.param_groups:
            for table_RD in group["params"]:
                if table_RD.grad is None:
                    continue
                gradient = table_RD.grad.coalesce()
                row_U, gradient_UD = gradient.indices()[0], gradient.values()
                sum_R = self.state[table_RD]["sum"]
                sum_U = sum_R[row_U] + gradient_UD.square().mean(1)
                sum_R[row_U] = sum_U
                step_UD = gradient_UD / (sum_U.sqrt() + EPSILON).unsqueeze(1)
                table_RD.index_add_(0, row_U, step_UD, alpha=-group["lr"])
