"""The lists of a training step."""

import pytest
import torch

from ranking.lists import sampled

TAKEN = torch.tensor([[0.0, 1, 0, 0, 1, 0, 0, 0], [1, 0, 0, 0, 0, 0, 0, 0], [0, 0, 1, 0, 0, 0, 0, 0]])
SHOWN = torch.tensor([[1.0] * 8, [1.0] * 4 + [0.0] * 4, [1.0] * 8])
BATCH = {
    "item_row": torch.arange(24).reshape(3, 8),
    "is_taken": TAKEN,
    "is_shown": SHOWN,
    "user_row": torch.tensor([5, 6, 7]),
    "item_genres": torch.arange(48).reshape(3, 8, 2),
}


def drawn(num: int, seed: int = 0):
    return sampled(BATCH, num, torch.Generator().manual_seed(seed))


def test_all_taken_items_and_as_many_others_as_asked_for_are_kept():
    batch, rate = drawn(3)
    for row in range(3):
        shown = batch["is_shown"][row] > 0
        kept = batch["item_row"][row][shown].tolist()
        taken = BATCH["item_row"][row][(TAKEN[row] * SHOWN[row]) > 0].tolist()
        assert len(set(kept)) == len(kept) == len(taken) + 3
        assert batch["item_row"][row][shown & (batch["is_taken"][row] > 0)].tolist() == taken
        assert (BATCH["is_shown"].flatten()[torch.tensor(kept)] > 0).all()
    assert rate.tolist() == pytest.approx([3 / 6, 1, 3 / 7])
    assert torch.equal(batch["item_genres"][..., 0], batch["item_row"] * 2)
    assert torch.equal(batch["user_row"], BATCH["user_row"])


def test_every_other_item_is_drawn_equally_often():
    times = torch.zeros(24)
    for seed in range(600):
        batch, _ = drawn(2, seed)
        times[batch["item_row"][batch["is_shown"] > 0]] += 1
    others = ((BATCH["is_taken"] == 0) & (SHOWN > 0)).flatten()
    assert (times[:8][others[:8]] / 600 - 2 / 6).abs().max() < 0.08
    assert (times[16:][others[16:]] / 600 - 2 / 7).abs().max() < 0.08


def test_lists_that_are_short_enough_stay_whole():
    batch, rate = drawn(7)
    assert batch is BATCH and rate.tolist() == [1, 1, 1]
