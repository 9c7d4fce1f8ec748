"""What the click models share: the columns they read, and the click probability of an impression."""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from merlin.schema import Schema, Tags
from torch import nn

from features.batches import Batch
from features.schema import PADDING, list_length, num_categories, select
from ranking.clicks.checks import PartStatistics
from ranking.clicks.id_penalty import with_penalty

# N rows  C categorical features  F continuous features  D weights per id
# W ids of all categorical features, one feature behind the other
# P ids of a row, those of lists one by one  L list length


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
        columns = select(schema, Tags.CATEGORICAL)
        self._id_types = [torch.int64 if column.dtype.name == "int64" else torch.int32 for column in columns]
        self._lengths = [[length] if (length := list_length(column)) else [] for column in columns]
        self.num_places = [length for lengths in self._lengths for length in lengths or [1]]
        first_id_C = torch.tensor(np.cumsum([0, *self.num_ids[:-1]]))
        is_real_W = torch.ones(sum(self.num_ids))
        is_real_W[first_id_C[torch.tensor([column.is_list for column in columns])] + PADDING] = 0
        share_W = is_real_W * torch.from_numpy(1 / np.maximum(fitted.id_count_W, 1)).float()
        self.is_real_W: torch.Tensor
        self.share_W: torch.Tensor
        self.first_id_P: torch.Tensor
        self.register_buffer("is_real_W", is_real_W, persistent=False)
        self.register_buffer("share_W", share_W, persistent=False)
        self.register_buffer(
            "first_id_P", first_id_C.repeat_interleave(torch.tensor(self.num_places)), persistent=False
        )

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
        """[N, P] ids, places in W: one of a plain feature, L of a list, its padding included."""
        columns = [batch[name] for name in self.categorical]
        places = [ids if ids.dim() > 1 else ids.unsqueeze(1) for ids in columns]
        return torch.cat(places, dim=1).long() + self.first_id_P

    def parts(self, id_NP: torch.Tensor) -> torch.Tensor:
        """[N, P] the part that each id has in its feature: 1 in a plain one, 1 / length in a list, 0 for padding."""
        if self.num_places == [1] * len(self.num_places):
            return torch.ones_like(id_NP, dtype=torch.float32)
        real_NP = self.is_real_W[id_NP].split(self.num_places, dim=1)
        return torch.cat([real_NL / real_NL.sum(1, keepdim=True).clamp(min=1) for real_NL in real_NP], dim=1)

    def shares(self, id_NP: torch.Tensor) -> torch.Tensor:
        """[N, C] the part of the penalty that a row bears for each feature.

        An id's penalty is spread over the rows that have it: an epoch charges each id once, and a step touches the
        weights of its batch only. A list bears its ids' parts together, on the square of their mean.
        """
        share_NP = self.share_W[id_NP]
        if self.num_places == [1] * len(self.num_places):
            return share_NP
        return torch.stack([share_NL.sum(1) for share_NL in share_NP.split(self.num_places, dim=1)], dim=1)

    def penalised(self, weight_NCD: torch.Tensor, share_NC: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The weights of a batch's ids, to go on with, and the batch's share of the penalty on them."""
        return with_penalty(weight_NCD, self.l2 / 2 / len(weight_NCD) * share_NC)

    def set_table_learning_rate(self, rate: float) -> None:
        """Step size of tables that move within the backward pass, called before the forward pass, which notes it."""

    def table_optimizer_state(self) -> dict[str, torch.Tensor]:
        """By name, what the optimizer of tables that move within the backward pass keeps; the tensors in use."""
        return {}

    def load_table_optimizer_state(self, state: dict[str, torch.Tensor]) -> None:
        """Take up what `table_optimizer_state` gave."""

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
            name: torch.randint(0, num_ids, [num_rows, *lengths], generator=generator, dtype=kind)
            for name, num_ids, lengths, kind in zip(
                self.categorical, self.num_ids, self._lengths, self._id_types, strict=True
            )
        }
        return ids | {name: torch.randn(num_rows, generator=generator) for name in self.continuous}


def output_layer(num_inputs: int, click_rate: float) -> nn.Linear:
    """A layer of one logit which, untrained, says the click rate whatever comes in."""
    layer = nn.Linear(num_inputs, 1)
    nn.init.zeros_(layer.weight)
    nn.init.constant_(layer.bias, float(np.log(click_rate / (1 - click_rate))))
    return layer
