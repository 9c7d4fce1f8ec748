"""A penalty on squared weights whose gradient costs one pass: it is added to the gradient that comes back anyway."""

from __future__ import annotations

from typing import Any

import torch

# N rows  C features  D weights per id


def with_penalty(weight_NCD: torch.Tensor, charge_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights, to go on with in place of those given, and the sum of charge * |weight|^2.

    The penalty counts if the gradient of both flows back through here.
    """
    return _WithPenalty.apply(weight_NCD, charge_NC)  # pyright: ignore[reportReturnType]


class _WithPenalty(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, weight_NCD: torch.Tensor, charge_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        ctx.save_for_backward(weight_NCD, charge_NC)
        norm_NC = torch.linalg.vector_norm(weight_NCD, dim=2)
        return weight_NCD.view_as(weight_NCD), (norm_NC.square() * charge_NC).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        weight_NCD, charge_NC = ctx.saved_tensors
        of_weights, of_penalty = gradients
        return torch.addcmul(of_weights, weight_NCD, (2 * of_penalty * charge_NC).unsqueeze(2)), None
