"""Logistic regression over the features of impressions: what a click model must beat."""

from __future__ import annotations

import torch
from merlin.schema import Schema
from torch import nn

from features.batches import Batch
from ranking.clicks.checks import PartStatistics
from ranking.clicks.model import ClickModel, output_layer


class ClickLogistic(ClickModel):
    """logit = bias + a weight per number * the number + a weight per category id; a list has the mean of its ids'.

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
        id_NP = self.ids(batch)
        return self._logits(batch, self.id_weights(id_NP), id_NP)

    def scored(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        id_NP = self.ids(batch)
        weight_NP1, on_ids = self.penalised(self.id_weights(id_NP), self.share_W[id_NP])
        on_numbers = self.l2 / 2 * self.number_weights.weight.square().sum() / self.num_fitted
        return self._logits(batch, weight_NP1, id_NP), on_ids + on_numbers

    def _logits(self, batch: Batch, weight_NP1: torch.Tensor, id_NP: torch.Tensor) -> torch.Tensor:
        of_ids_N = (weight_NP1.squeeze(2) * self.parts(id_NP)).sum(1)
        return of_ids_N + self.number_weights(self.numbers(batch)).squeeze(-1)
