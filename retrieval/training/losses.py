"""Losses of the retrieval model."""

from __future__ import annotations

import torch
from torch import nn

# B examples  C items that the step scores, each once


def sampled_softmax(
    score_BC: torch.Tensor, positive_B: torch.Tensor, log_q_C: torch.Tensor, smoothing: float = 0.0
) -> torch.Tensor:
    """Mean cross-entropy of each example's item among the items of the step, corrected for how often they come up.

    loss_i = -sum_c t_ic log( exp(s_ic) / sum_c' exp(s_ic') ),   s_ic = score_ic - log Q(c)
    t_ic = smoothing / C, and 1 - smoothing more for the example's own item

    Args:
        score_BC: logits; -inf leaves an item out, but not with smoothing, which asks for a share of every item.
        positive_B: column of each example's own item.
        log_q_C: log of the probability that the step scores the item; all 0 makes this the exact softmax.
        smoothing: share of the target spread evenly over the scored items, in [0, 1).
    Source: Yi et al., RecSys 2019, section 4: the logQ correction of the sampled softmax; Szegedy et al., CVPR 2016,
        section 7: label smoothing.
    """
    return nn.functional.cross_entropy(score_BC - log_q_C, positive_B, label_smoothing=smoothing)
