"""Losses of the retrieval model."""

from __future__ import annotations

import torch
from torch import nn

# B examples, each with one positive; every positive serves as a negative for the other examples


def in_batch_softmax(
    query_BD: torch.Tensor,
    item_BD: torch.Tensor,
    item_id_B: torch.Tensor,
    log_q_B: torch.Tensor,
    temperature: torch.Tensor | float,
) -> torch.Tensor:
    """Mean cross-entropy of each example's item among all items of the batch, corrected for how often they come up.

    loss = -log( exp(s_ii) / sum_j exp(s_ij) ),   s_ij = <q_i, v_j> / temperature - log Q(j)

    An item j that is the same as example i's own item is no negative of i and is left out of the sum.

    Args:
        query_BD, item_BD: vectors of the examples' users and items.
        item_id_B: which item each is, to find repetitions.
        log_q_B: log of the probability that the item appears as an example.
        temperature: > 0.
    Source: Yi et al., RecSys 2019, section 4: the logQ correction of the sampled softmax.
    """
    score_BB = query_BD @ item_BD.T / temperature - log_q_B
    same_BB = item_id_B[:, None] == item_id_B[None, :]
    own_BB = torch.eye(len(item_id_B), dtype=torch.bool, device=score_BB.device)
    score_BB = score_BB.masked_fill(same_BB & ~own_BB, -torch.inf)
    return nn.functional.cross_entropy(score_BB, torch.arange(len(item_id_B), device=score_BB.device))
