"""Hard negatives: the items that the model of the moment ranks first for users who took something else.

ANCE draws each query's negatives from its own search results, which the examples of a step cannot share. Here recent
queries are searched for now and then, and what comes up, other than the item taken, is drawn from in proportion to how
often it came up. So a draw is one from the mixture of many users' search results: near enough to the users of any one
step, and its probability is known exactly, as the correction of the softmax needs it. In between the vectors grow old,
in ANCE as here; the correction does not: it is that of the draw as it is made.

Source: Xiong et al., "Approximate nearest neighbor negative contrastive learning for dense text retrieval", ICLR 2021.
"""

from __future__ import annotations

import torch

# B queries  I items  K ranks


def hard_items(score_BI: torch.Tensor, positive_B: torch.Tensor, depth: int) -> torch.Tensor:
    """Item rows [at least B (K - 1)] among the first K of each query, without the query's own item.

    Args:
        score_BI: of one model.
        positive_B: item row that each query's user took.
        depth: K; fewer if there are fewer items.
    """
    found_BK = score_BI.topk(min(depth, score_BI.shape[1])).indices
    return found_BK[found_BK != positive_B.unsqueeze(1)]
