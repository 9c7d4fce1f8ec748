"""A model's weights while it is trained: who moves them, how far, and what the next step depends on.

Embedding tables are moved by row-wise Adagrad, so that a step costs what its batch touches; everything else by AdamW.
Tables that move within the backward pass bring their own optimizer, and are told their rate before the forward pass.

Source: Pascanu, Mikolov & Bengio, "On the difficulty of training recurrent neural networks", ICML 2013, algorithm 1
(clipping by the norm).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import nn

from features.checkpoint import below, under
from features.rowwise_adagrad import RowwiseAdagrad
from ranking.training.schedule import RateSchedule


class TrainedModel(Protocol):
    """What `TrainedWeights` asks of a module, as `ClickModel` says it."""

    def sparse_parameters(self) -> list[nn.Parameter]: ...
    def dense_parameters(self) -> list[nn.Parameter]: ...
    def set_table_learning_rate(self, rate: float) -> None: ...
    def table_optimizer_state(self) -> dict[str, torch.Tensor]: ...
    def load_table_optimizer_state(self, state: dict[str, torch.Tensor]) -> None: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
    def train(self, mode: bool = True) -> Any: ...


@dataclass(frozen=True)
class Rates:
    """How far a step goes."""

    dense: float
    """Of AdamW, before the schedule."""
    tables: float
    """Of row-wise Adagrad, before the schedule."""
    weight_decay: float
    """Decoupled, of the dense weights."""
    clip_norm: float
    """Longest gradient of all dense weights together; 0 for any."""
    schedule: RateSchedule


class TrainedWeights:
    """The model, its optimizers, and the number of steps taken."""

    def __init__(self, model: TrainedModel, rates: Rates) -> None:
        self.model, self.rates = model, rates
        self.num_steps = 0
        self._dense = model.dense_parameters()
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "dense": torch.optim.AdamW(self._dense, rates.dense, weight_decay=rates.weight_decay, fused=True)
        }
        if tables := model.sparse_parameters():
            self._optimizers["tables"] = RowwiseAdagrad(tables, rates.tables)

    def learning_rates(self, step: int) -> dict[str, float]:
        """Those of a step; 0 is the first of all."""
        share = self.rates.schedule.share(step)
        return {"learning_rate": self.rates.dense * share, "table_learning_rate": self.rates.tables * share}

    def adagrad_sums(self) -> list[torch.Tensor]:
        """[R] of each of the model's sparse parameters, in their order: how far its rows were trained; those in use."""
        optimizer = self._optimizers.get("tables")
        return [optimizer.state[table]["sum"] for table in self.model.sparse_parameters()] if optimizer else []

    def begin_step(self) -> None:
        """To be called before the forward pass, in which tables that move by themselves note how far they will."""
        rates = self.learning_rates(self.num_steps)
        for name, optimizer in self._optimizers.items():
            for group in optimizer.param_groups:
                group["lr"] = rates["table_learning_rate" if name == "tables" else "learning_rate"]
        self.model.set_table_learning_rate(rates["table_learning_rate"])

    def step(self, loss: torch.Tensor) -> None:
        """Move all weights down the loss."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        if self.rates.clip_norm:
            nn.utils.clip_grad_norm_(self._dense, self.rates.clip_norm)
        for optimizer in self._optimizers.values():
            optimizer.step()
        self.num_steps += 1

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on; the tensors are those in use, not copies."""
        state = under("model", self.model.state_dict()) | self.optimizer_state()
        return state | {"num_steps": torch.tensor(self.num_steps)}

    def load_state_dict(self, state: Mapping[str, torch.Tensor]) -> None:
        self.model.load_state_dict(below("model", state))
        self.load_optimizer_state(state)
        self.num_steps = int(state["num_steps"])

    def optimizer_state(self) -> dict[str, torch.Tensor]:
        """What the optimizers have gathered, without the weights."""
        state = under("fused", self.model.table_optimizer_state())
        for kind, optimizer in self._optimizers.items():
            for number, values in optimizer.state_dict()["state"].items():
                state |= under(f"{kind}.{number}", values)
        return state

    def load_optimizer_state(self, state: Mapping[str, torch.Tensor]) -> None:
        self.model.load_table_optimizer_state(below("fused", state))
        for kind, optimizer in self._optimizers.items():
            values: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in below(kind, state).items():
                number, key = name.split(".")
                values.setdefault(int(number), {})[key] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": values})
