"""Losses of the ranker over lists of candidates; `ranking.loss` names the one to use."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.nn import functional

# B lists  K items of a list
CUT_OFF = 10
"""Places that NDCG, and so LambdaRank, looks at."""
Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def listwise(
    score_BK: torch.Tensor, is_taken_BK: torch.Tensor, is_shown_BK: torch.Tensor, rate_B: torch.Tensor
) -> torch.Tensor:
    """[B] cross-entropy of the taken items among the items of their list.

    loss = -(1 / |T|) sum over taken i of log( exp(s_i) / sum over shown k of exp(s_k) )

    Args:
        score_BK: logits.
        is_taken_BK: 1 where the item was taken, else 0; at least one in every list.
        is_shown_BK: 1 where there is an item, 0 where the place is empty.
        rate_B: share of the items that were not taken which stands in the list; not used.
    Source: Cao et al., "Learning to rank: from pairwise approach to listwise approach", ICML 2007: top-one
        probabilities, the target spread evenly over the taken items.
    """
    taken_BK = is_taken_BK * is_shown_BK
    log_p_BK = torch.log_softmax(score_BK.masked_fill(is_shown_BK == 0, -torch.inf), dim=1)
    return -(log_p_BK.masked_fill(taken_BK == 0, 0) * taken_BK).sum(1) / taken_BK.sum(1)


def pairwise(
    score_BK: torch.Tensor, is_taken_BK: torch.Tensor, is_shown_BK: torch.Tensor, rate_B: torch.Tensor
) -> torch.Tensor:
    """[B] mean over pairs of a taken item i and another j of log(1 + exp(-(s_i - s_j))); 0 without a pair.

    Args: as for `listwise`.
    Source: Burges et al., "Learning to rank using gradient descent", ICML 2005 (RankNet); Rendle et al., "BPR: Bayesian
        personalized ranking from implicit feedback", UAI 2009.
    """
    loss_BKK, is_pair_BKK = _pairs(score_BK, is_taken_BK, is_shown_BK)
    return (loss_BKK * is_pair_BKK).sum((1, 2)) / is_pair_BKK.sum((1, 2)).clamp(min=1)


def lambdarank(
    score_BK: torch.Tensor, is_taken_BK: torch.Tensor, is_shown_BK: torch.Tensor, rate_B: torch.Tensor
) -> torch.Tensor:
    """[B] the same pairs, summed with what swapping the two would change in NDCG@10.

    weight = |d(rank_i) - d(rank_j)| / ideal, d(r) = 1 / log2(1 + r) up to rank 10, 0 beyond; the weights are constants
    to the gradient.

    Args: as for `listwise`.
    Source: Burges, Ragno & Le, "Learning to rank with nonsmooth cost functions", NIPS 2006; as a loss, Wang et al.,
        "The LambdaLoss framework for ranking metric optimization", CIKM 2018.
    """
    loss_BKK, is_pair_BKK = _pairs(score_BK, is_taken_BK, is_shown_BK)
    discount_BK = discounts(score_BK.detach(), is_shown_BK)
    weight_BKK = (discount_BK[:, :, None] - discount_BK[:, None, :]).abs() / ideal_gain(
        (is_taken_BK * is_shown_BK).sum(1)
    )[:, None, None]
    return (loss_BKK * is_pair_BKK * weight_BKK).sum((1, 2))


def bce(
    score_BK: torch.Tensor, is_taken_BK: torch.Tensor, is_shown_BK: torch.Tensor, rate_B: torch.Tensor
) -> torch.Tensor:
    """[B] mean log loss of the items, each by itself, corrected for negatives that were left out.

    Of the items not taken only a share w is in the list, so the odds there are 1/w times the true ones. The loss is
    that of s - log w, so that sigmoid(s) is the probability among all candidates. It is the correction
    q = p / (p + (1 - p) / w) of the probability p that the sample shows.

    Args: as for `listwise`.
    Source: King & Zeng, "Logistic regression in rare events data", Political Analysis 2001 (prior correction); He et
        al., "Practical lessons from predicting clicks on ads at Facebook", ADKDD 2014, section 6.3.
    """
    loss_BK = functional.binary_cross_entropy_with_logits(
        score_BK - rate_B.log()[:, None], is_taken_BK, reduction="none"
    )
    return (loss_BK * is_shown_BK).sum(1) / is_shown_BK.sum(1).clamp(min=1)


LOSSES: dict[str, Loss] = {"lambdarank": lambdarank, "listwise": listwise, "pairwise": pairwise, "bce": bce}


def discounts(score_BK: torch.Tensor, is_shown_BK: torch.Tensor) -> torch.Tensor:
    """[B, K] 1 / log2(1 + rank) of each item up to rank CUT_OFF, 0 beyond; ties by place, empty places last."""
    shown_BK = score_BK.masked_fill(is_shown_BK == 0, -torch.inf)
    order_BK = shown_BK.argsort(dim=1, descending=True, stable=True)
    rank_BK = order_BK.argsort(dim=1) + 1.0
    return torch.where((rank_BK <= CUT_OFF) & (is_shown_BK > 0), 1 / torch.log2(1 + rank_BK), 0.0)


def ideal_gain(num_taken_B: torch.Tensor) -> torch.Tensor:
    """[B] the discounts of as many first ranks, at most CUT_OFF, summed; for none, that of one."""
    gain = (1 / torch.log2(torch.arange(2, CUT_OFF + 2, dtype=torch.float32))).cumsum(0)
    return gain[num_taken_B.long().clamp(1, CUT_OFF) - 1]


def _pairs(
    score_BK: torch.Tensor, is_taken_BK: torch.Tensor, is_shown_BK: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """[B, K, K] log(1 + exp(-(s_i - s_j))), and 1 where i was taken and j was not."""
    taken_BK, other_BK = is_taken_BK * is_shown_BK, (1 - is_taken_BK) * is_shown_BK
    loss_BKK = functional.softplus(score_BK[:, None, :] - score_BK[:, :, None])
    return loss_BKK, taken_BK[:, :, None] * other_BK[:, None, :]
