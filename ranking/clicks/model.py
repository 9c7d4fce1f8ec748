"""What the click models share: the columns they read, and the click probability of an impression."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from merlin.schema import Schema, Tags
from torch import nn

from features.batches import Batch
from features.schema import num_categories, select
from ranking.clicks.checks import PartStatistics

# N rows  C categorical features  F continuous features  D weights per id
# W ids of all categorical features, one feature behind the other


class ClickModel(nn.Module):
    """A module whose `forward` gives [N] logits of a batch of impressions.

    Args:
        schema: the features, as `click_schema` gives them; the label is not read.
        fitted: statistics of the train part.
        l2: strength of the penalty on ids' weights: training minimises the sum of the log losses of the train part and
            l2 / 2 * the sum of the squared weights.
    """

    def __init__(self, schema: Schema, fitted: PartStatistics, l2: float) -> None:
        super().__init__()
        self.categorical = select(schema, Tags.CATEGORICAL).column_names
        self.continuous = select(schema, Tags.CONTINUOUS).column_names
        self.num_ids = [num_categories(column) for column in select(schema, Tags.CATEGORICAL)]
        self.num_fitted = fitted.num_rows
        self.l2 = l2
        share_W = torch.from_numpy(1 / np.maximum(fitted.id_count_W, 1)).float()
        self.share_W: torch.Tensor
        self.first_id_C: torch.Tensor
        self.register_buffer("share_W", share_W, persistent=False)
        self.register_buffer("first_id_C", torch.tensor(np.cumsum([0, *self.num_ids[:-1]])), persistent=False)

    def scored(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """[N] logits, and the batch's share of the penalty, to be added to the mean of their log losses."""
        raise NotImplementedError

    def start(self) -> None:
        """Called once before the first step: a model that cannot learn from how it was made changes itself."""

    def probability(self, batch: Batch) -> torch.Tensor:
        """[N] click probabilities."""
        return torch.sigmoid(self(batch))

    def numbers(self, batch: Batch) -> torch.Tensor:
        """[N, F] continuous features."""
        return torch.stack([batch[name] for name in self.continuous], dim=1)

    def ids(self, batch: Batch) -> torch.Tensor:
        """[N, C] ids of the features, places in W."""
        return torch.stack([batch[name].long() for name in self.categorical], dim=1) + self.first_id_C

    def id_penalty(self, batch: Batch, weight_NCD: torch.Tensor) -> torch.Tensor:
        """The batch's share of the penalty on the weights of its ids.

        An id's penalty is spread over the rows that have it: an epoch charges each id once, and a step touches the
        weights of its batch only.
        """
        square_NC = weight_NCD.square().sum(-1)
        return self.l2 / 2 * (square_NC * self.share_W[self.ids(batch)]).sum() / len(square_NC)

    def sparse_parameters(self) -> list[nn.Parameter]:
        """Tables whose gradients are sparse."""
        tables = (module for module in self.modules() if isinstance(module, nn.Embedding))
        return [cast(nn.Parameter, table.weight) for table in tables if table.sparse]

    def dense_parameters(self) -> list[nn.Parameter]:
        """All other parameters."""
        sparse = {id(parameter) for parameter in self.sparse_parameters()}
        return [parameter for parameter in self.parameters() if id(parameter) not in sparse]

    def example_batch(self, num_rows: int = 3) -> Batch:
        """Made-up features in the types of the etl stage, the same on every call."""
        generator = torch.Generator().manual_seed(0)
        ids = {
            name: torch.randint(0, num_ids, [num_rows], generator=generator, dtype=torch.int32)
            for name, num_ids in zip(self.categorical, self.num_ids, strict=True)
        }
        return ids | {name: torch.randn(num_rows, generator=generator) for name in self.continuous}


def output_layer(num_inputs: int, click_rate: float) -> nn.Linear:
    """A layer of one logit which, untrained, says the click rate whatever comes in."""
    layer = nn.Linear(num_inputs, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, float(np.log(click_rate / (1 - click_rate))))
    return layer
