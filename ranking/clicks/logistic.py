"""Logistic regression over the features of impressions: what a click model must beat."""

from __future__ import annotations

import torch
from merlin.schema import Schema
from torch import nn

from features.batches import Batch
from ranking.clicks.checks import PartStatistics
from ranking.clicks.model import ClickModel, output_layer


class ClickLogistic(ClickModel):
    """logit = bias + a weight per number * the number + a weight per category id.

    Args:
        schema: the features, as `click_schema` gives them; the label is not read.
        fitted: statistics of the train part.
        l2: strength of the penalty on all weights, as `ClickModel` says; the bias goes free.
    """

    def __init__(self, schema: Schema, fitted: PartStatistics, l2: float) -> None:
        super().__init__(schema, fitted, l2)
        self.id_weights = nn.Embedding(sum(self.num_ids), 1, sparse=True)
        nn.init.zeros_(self.id_weights.weight)
        self.number_weights = output_layer(len(self.continuous), fitted.click_rate)

    def forward(self, batch: Batch) -> torch.Tensor:
        """[N] logits."""
        return self._logits(batch, self.id_weights(self.ids(batch)))

    def scored(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        weight_NC1 = self.id_weights(self.ids(batch))
        on_numbers = self.l2 / 2 * self.number_weights.weight.square().sum() / self.num_fitted
        return self._logits(batch, weight_NC1), self.id_penalty(batch, weight_NC1) + on_numbers

    def _logits(self, batch: Batch, weight_NC1: torch.Tensor) -> torch.Tensor:
        return weight_NC1.sum((1, 2)) + self.number_weights(self.numbers(batch)).squeeze(-1)
