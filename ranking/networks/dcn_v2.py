"""DCN-v2: layers that cross the input with itself, stacked under a deep network or parallel to it.

Source: Wang et al., "DCN V2: improved deep & cross network and practical lessons for web-scale learning to rank
systems", WWW 2021, equations 1 (full rank) and 4 (mixture of low-rank experts).
"""

from __future__ import annotations

from typing import cast

import torch
from merlin.models.torch import MLPBlock
from merlin.models.torch.blocks.cross import CrossBlock
from torch import nn

from ranking.config import NetworkConfig
from ranking.networks.network import Network

# N rows  F numbers  C vectors  D embedding  X = F + C D inputs  E experts  R rank


class DcnV2(Network):
    """Crosses of numbers and vectors side by side; `structure` says where the deep network stands."""

    def __init__(self, config: NetworkConfig, num_numbers: int, num_vectors: int) -> None:
        super().__init__(config, num_numbers, num_vectors)
        num_inputs = num_numbers + num_vectors * self.dim
        settings = config.dcn_v2
        self.is_stacked = settings.structure == "stacked"
        if not settings.rank:
            self.cross: nn.Module = CrossBlock.with_depth(settings.num_layers)
        else:
            self.cross = LowRankCross(num_inputs, settings.rank, settings.num_experts, settings.num_layers)
        self.dropout = nn.Dropout(config.dropout)
        self.deep = MLPBlock([*settings.deep_units])
        self.width = settings.deep_units[-1] + (0 if self.is_stacked else num_inputs)
        self.take_shapes()

    def forward(self, number_NF: torch.Tensor, vector_NCD: torch.Tensor) -> torch.Tensor:
        input_NX = torch.cat([number_NF, vector_NCD.flatten(1)], dim=1)
        crossed_NX = self.dropout(self.cross(input_NX))
        if self.is_stacked:
            return self.deep(crossed_NX)
        return torch.cat([crossed_NX, self.deep(input_NX)], dim=1)


class LowRankCross(nn.Module):
    """x_{l+1} = sum_e G_e(x_l) E_e(x_l) + x_l.

    E_e(x) = x_0 * (U_e tanh(C_e tanh(V_e^T x)) + b), G = softmax(g x)
    """

    def __init__(self, num_inputs: int, rank: int, num_experts: int, num_layers: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(_LowRankLayer(num_inputs, rank, num_experts) for _ in range(num_layers))

    def forward(self, input_NX: torch.Tensor) -> torch.Tensor:
        crossed_NX = input_NX
        for layer in self.layers:
            crossed_NX = input_NX * cast(torch.Tensor, layer(crossed_NX)) + crossed_NX
        return crossed_NX


class _LowRankLayer(nn.Module):
    def __init__(self, num_inputs: int, rank: int, num_experts: int) -> None:
        super().__init__()
        self.num_experts, self.rank = num_experts, rank
        self.down = nn.Linear(num_inputs, num_experts * rank, bias=False)
        self.inner_ERR = nn.Parameter(torch.empty(num_experts, rank, rank))
        self.up_ERX = nn.Parameter(torch.empty(num_experts, rank, num_inputs))
        self.bias_X = nn.Parameter(torch.zeros(num_inputs))
        self.gate = nn.Linear(num_inputs, num_experts)
        for weight in (self.inner_ERR, self.up_ERX):
            nn.init.uniform_(weight, -(rank**-0.5), rank**-0.5)

    def forward(self, crossed_NX: torch.Tensor) -> torch.Tensor:
        low_NER = torch.tanh(self.down(crossed_NX)).reshape(-1, self.num_experts, self.rank)
        low_NER = torch.tanh(torch.einsum("ner,ers->nes", low_NER, self.inner_ERR))
        gate_NE = torch.softmax(self.gate(crossed_NX), dim=1)
        # The gates weigh the experts before they are led back up: one product, and their sum is that of the bias.
        return torch.einsum("ner,erx->nx", low_NER * gate_NE.unsqueeze(2), self.up_ERX) + self.bias_X
