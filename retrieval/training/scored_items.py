"""Which items a training step scores: those its examples are about, and others of the catalogue as negatives.

The others are drawn evenly, and, if asked for, from the items that the model itself ranks too high (`HardItems`). The
examples of a step share them all, and each one's probability of being scored is known, which corrects for the choice.

Source: Yang et al., "Mixed negative sampling for learning two-tower neural networks in recommendations", WWW 2020.
"""

from __future__ import annotations

import numpy as np
import torch

# B examples  C scored items  I items  H hard items, with repeats


class ScoredItems:
    """Draws the items of each step.

    Args:
        example_row: item rows of all examples.
        num_items: I.
        num_scored: C without hard items, if the catalogue has as many; a smaller one is scored whole.
    """

    def __init__(self, example_row: torch.Tensor, num_items: int, num_scored: int) -> None:
        self._share_I = torch.bincount(example_row, minlength=num_items) / len(example_row)
        self._num_scored = num_scored
        self.hard_H = torch.empty(0, dtype=torch.int64)
        self._hard_share_I = torch.zeros(num_items)
        self._num_hard = 0

    @property
    def is_whole(self) -> bool:
        """Whether every step scores the whole catalogue."""
        return len(self._share_I) <= self._num_scored

    def add_hard(self, hard_H: torch.Tensor, num_hard: int) -> None:
        """From now on let every step draw `num_hard` times, with repeats, from these item rows."""
        self.hard_H, self._num_hard = hard_H, num_hard
        self._hard_share_I = torch.bincount(hard_H, minlength=len(self._share_I)) / max(len(hard_H), 1)

    def draw(self, positive_row_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The items to score, each once: all positives of the batch, then others, drawn evenly, then hard ones.

        Returns: item rows [C]; the column of each example's own item [B]; the log of the probability with which a batch
            of this size would have scored each item [C], 0 where the whole catalogue is scored.
        """
        num_items = len(self._share_I)
        if self.is_whole:
            return torch.arange(num_items), positive_row_B, torch.zeros(num_items)
        own_row, column_B = torch.unique(positive_row_B, return_inverse=True)
        num_others, num_drawn = num_items - len(own_row), max(self._num_scored - len(own_row), 0)
        item_row_C = torch.cat([own_row, _others(own_row, num_others, num_drawn)])
        num_hard = self._num_hard if len(self.hard_H) else 0
        if num_hard:
            hard_row = self.hard_H[torch.randint(len(self.hard_H), (num_hard,))].unique()
            item_row_C = torch.cat([item_row_C, hard_row[~torch.isin(hard_row, item_row_C)]])
        as_positive_C = _in_any_draw(self._share_I[item_row_C], len(positive_row_B))
        as_hard_C = _in_any_draw(self._hard_share_I[item_row_C], num_hard)
        drawn = num_drawn / max(num_others, 1)
        return item_row_C, column_B, torch.log(as_positive_C + (1 - as_positive_C) * (drawn + (1 - drawn) * as_hard_C))


def _in_any_draw(share: torch.Tensor, num_draws: int) -> torch.Tensor:
    """Probability that an item of this share comes up at least once."""
    return -torch.expm1(num_draws * torch.log1p(-share))


def _others(own_row: torch.Tensor, num_others: int, num_drawn: int) -> torch.Tensor:
    """Different item rows, drawn evenly from those not in the sorted `own_row`; the catalogue's size costs nothing."""
    random = np.random.default_rng(int(torch.randint(2**63 - 1, ())))
    place = torch.from_numpy(random.choice(num_others, num_drawn, replace=False, shuffle=False))
    num_before = own_row - torch.arange(len(own_row))  # how many others stand before each own row
    return place + torch.searchsorted(num_before, place, right=True)
