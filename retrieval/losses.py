"""Losses of the retrieval model."""

from __future__ import annotations

import torch
from torch import nn

# B examples  C items that the step scores, each once


def sampled_softmax(score_BC: torch.Tensor, positive_B: torch.Tensor, log_q_C: torch.Tensor) -> torch.Tensor:
    """Mean cross-entropy of each example's item among the items of the step, corrected for how often they come up.

    loss_i = -log( exp(s_ip) / sum_c exp(s_ic) ),   s_ic = score_ic - log Q(c)

    Args:
        score_BC: logits.
        positive_B: column of each example's own item.
        log_q_C: log of the probability that the step scores the item; all 0 makes this the exact softmax.
    Source: Yi et al., RecSys 2019, section 4: the logQ correction of the sampled softmax.
    """
    return nn.functional.cross_entropy(score_BC - log_q_C, positive_B)
