"""The ranker of impressions: the click probability of a row of numbers and categories.

The tables' gradients are sparse: a step costs what its batch touches, however large the vocabularies.
"""

from __future__ import annotations

import torch
from merlin.schema import Schema
from torch import nn

from features.batches import Batch
from features.category_tables import category_tables
from ranking.clicks.checks import PartStatistics
from ranking.clicks.model import ClickModel, output_layer
from ranking.config import NetworkConfig
from ranking.networks import network_of

# N rows  C categorical features  D embedding


INITIAL_DEVIATION = 0.01
"""Of the tables' first weights, large and small ones alike. The uniform draw of DLRM's authors, +-rows ** -0.5, is
noise that rare ids of small tables keep: valid log loss .5010 against .4986 on the Criteo sample, .5965 against .5950
on MovieLens likes (3 seeds)."""


class ClickRanker(ClickModel):
    """Categories as vectors, and a network over them and the numbers.

    Args:
        schema: the features, as `click_schema` gives them; the label is not read.
        fitted: statistics of the train part, whose click rate it says of every row until it is trained.
        l2: strength of the penalty, as `ClickModel` says.
    """

    def __init__(self, schema: Schema, config: NetworkConfig, fitted: PartStatistics, l2: float) -> None:
        super().__init__(schema, fitted, l2)
        self.tables = category_tables(schema, config.embedding_dim, config.tables)
        for weight_RD in self.tables.weights().values():
            nn.init.normal_(weight_RD, std=INITIAL_DEVIATION)
        self.network = network_of(config, len(self.continuous), len(self.categorical))
        self.output = output_layer(self.network.width, fitted.click_rate)

    def start(self) -> None:
        """Random weights for the output: behind zeros, the penalty would empty the tables before the data speaks."""
        nn.init.kaiming_uniform_(self.output.weight, a=5**0.5)  # as nn.Linear does

    def forward(self, batch: Batch) -> torch.Tensor:
        """[N] logits."""
        return self._logits(batch, self.tables(batch))

    def scored(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        vector_NCD, penalty = self.tables(batch), torch.zeros(())
        if self.l2:
            vector_NCD, penalty = self.penalised(vector_NCD, self.shares(self.ids(batch)))
        return self._logits(batch, vector_NCD), penalty

    def sparse_parameters(self) -> list[nn.Parameter]:
        return self.tables.sparse_parameters()

    def set_table_learning_rate(self, rate: float) -> None:
        self.tables.set_learning_rate(rate)

    def table_optimizer_state(self) -> dict[str, torch.Tensor]:
        return self.tables.optimizer_state()

    def load_table_optimizer_state(self, state: dict[str, torch.Tensor]) -> None:
        self.tables.load_optimizer_state(state)

    def _logits(self, batch: Batch, vector_NCD: torch.Tensor) -> torch.Tensor:
        return self.output(self.network(self.numbers(batch), vector_NCD)).squeeze(-1)
