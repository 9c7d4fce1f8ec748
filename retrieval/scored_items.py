"""Which items a training step scores: those its examples are about, and others of the catalogue as negatives."""

from __future__ import annotations

import torch

# B examples  C scored items  I items


class ScoredItems:
    """Draws the items of each step.

    Args:
        example_row: item rows of all examples.
        num_items: I.
        num_scored: C, if the catalogue has as many; a smaller one is scored whole.
    """

    def __init__(self, example_row: torch.Tensor, num_items: int, num_scored: int) -> None:
        self._share_I = torch.bincount(example_row, minlength=num_items) / len(example_row)
        self._num_scored = num_scored

    def draw(self, positive_row_B: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The items to score, each once: all that are positives of the batch, then others, drawn evenly.

        Returns: item rows [C]; the column of each example's own item [B]; the log of the probability with which a batch
            of this size would have scored each item [C], 0 where the whole catalogue is scored.
        """
        num_items = len(self._share_I)
        if num_items <= self._num_scored:
            return torch.arange(num_items), positive_row_B, torch.zeros(num_items)
        own_row, column_B = torch.unique(positive_row_B, return_inverse=True)
        is_other_I = torch.ones(num_items)
        is_other_I[own_row] = 0.0
        num_others, num_drawn = num_items - len(own_row), max(self._num_scored - len(own_row), 0)
        drawn_row = torch.multinomial(is_other_I, num_drawn) if num_drawn else own_row[:0]
        item_row_C = torch.cat([own_row, drawn_row])
        as_positive_C = -torch.expm1(len(positive_row_B) * torch.log1p(-self._share_I[item_row_C]))
        return item_row_C, column_B, torch.log(as_positive_C + (1 - as_positive_C) * num_drawn / num_others)
