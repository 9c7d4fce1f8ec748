"""Dropout whose mask costs a quarter: on a CPU torch draws a whole number for every element, this 16 bits."""

from __future__ import annotations

import torch
from torch import nn

_BITS = 16
_PER_DRAW = 64 // _BITS


class Dropout(nn.Module):
    """Sets a share of the elements to 0 while training, and scales the others up so that the mean stays.

    Args:
        share: in [0, 1), to the nearest 1 / 2^16.
    """

    def __init__(self, share: float) -> None:
        super().__init__()
        self.share = round(share * 2**_BITS) / 2**_BITS

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        if not self.training or self.share == 0:
            return inputs
        draws = torch.empty(-(-inputs.numel() // _PER_DRAW), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)
        is_kept = bits >= round(self.share * 2**_BITS) - 2 ** (_BITS - 1)
        return inputs * (is_kept.to(inputs.dtype) / (1 - self.share))
