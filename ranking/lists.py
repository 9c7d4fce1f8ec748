"""Lists as the ranker trains on them: what was taken, and some of what was not."""

from __future__ import annotations

import torch

from features.batches import Batch
from ranking.pair_features import is_per_candidate

# B lists  K candidates  M items of a list that are learned from
OF_LIST = ("item_row", "is_shown", "is_taken")


def sampled(batch: Batch, num_negatives: int, generator: torch.Generator) -> tuple[Batch, torch.Tensor]:
    """The lists with all items that were taken and at most so many others, drawn evenly.

    Args:
        batch: `is_shown` and `is_taken` [B, K], and per-candidate features [B, K] or [B, K, length].
    Returns: the batch with [B, M] in their place; and [B] the share of the others that was drawn.
    """
    taken_BK = (batch["is_taken"] * batch["is_shown"]) > 0
    other_BK = (batch["is_shown"] > 0) & ~taken_BK
    num_others_B = other_BK.sum(1)
    rate_B = (num_negatives / num_others_B.clamp(min=1)).clamp(max=1.0)
    if not (num_others_B > num_negatives).any():
        return batch, rate_B
    key_BK = torch.rand(other_BK.shape, generator=generator)
    key_BK = torch.where(other_BK, key_BK, torch.where(taken_BK, -1.0, 2.0))  # taken first, empty places last
    width = int(taken_BK.sum(1).max()) + num_negatives
    place_BM = key_BK.argsort(dim=1, stable=True)[:, :width]
    kept_BM = torch.arange(place_BM.shape[1]) < (taken_BK.sum(1) + num_negatives)[:, None]
    list_of_B1 = torch.arange(len(place_BM))[:, None]
    drawn = {
        name: values[list_of_B1, place_BM] if name in OF_LIST or is_per_candidate(name) else values
        for name, values in batch.items()
    }
    return drawn | {"is_shown": drawn["is_shown"] * kept_BM}, rate_B
