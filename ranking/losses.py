"""Losses of the ranker."""

from __future__ import annotations

import torch

# B lists  K items of a list, the first of which was taken


def list_softmax(score_BK: torch.Tensor, is_shown_BK: torch.Tensor) -> torch.Tensor:
    """[B] cross-entropy of the taken item among the items of its list.

    loss = -log( exp(s_0) / sum over shown k of exp(s_k) )

    Args:
        score_BK: logits; column 0 is the item that was taken.
        is_shown_BK: 1 where there is an item, 0 where the place is empty.
    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007; here with one
        relevant item.
    """
    shown_BK = score_BK.masked_fill(is_shown_BK == 0, -torch.inf)
    return torch.logsumexp(shown_BK, dim=1) - score_BK[:, 0]
