"""The moving average of the weights, which is the model that is kept, at the cost of what a step touches.

average_t = decay_t average_(t-1) + (1 - decay_t) weight_t,   decay_t = decay (1 - decay^(t-1)) / (1 - decay^t)

So the first weights of all, which are random, have no say (decay_1 = 0), and a training of few steps is averaged
evenly. While a row of a table stays as it is, steps s+1 to t of this are p average + (1 - p) weight, with
p = decay_(s+1) ... decay_t. So a row is brought up to date before it changes, and every row before the average is used.

Source: Polyak & Juditsky, "Acceleration of stochastic approximation by averaging", 1992; the decay with the correction
for its beginning of Kingma & Ba, "Adam", 2015, section 3.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable
from typing import Generic, TypeVar

import numba
import numpy as np
import torch
from torch import nn

# R rows of a table  N rows touched by a step, with repeats  D embedding
M = TypeVar("M", bound=nn.Module)
_LEAST_DECAY = 1e-30


class AveragedModel(Generic[M]):
    """Average of a model's weights, from its first weights on.

    Args:
        model: all its parameters are averaged.
        tables: those of them [R, D] whose gradients may be sparse.
        decay: 0 for the last weights themselves.
    """

    def __init__(self, model: M, tables: Iterable[torch.Tensor], decay: float) -> None:
        self._average = copy.deepcopy(model).eval().requires_grad_(False)
        self._decay = decay
        self._num_steps = 0
        self._log_decay = 0.0  # the sum over all steps so far
        averages = dict(self._average.named_parameters())
        self._tables, self._dense = {}, []
        is_table = {id(table) for table in tables}
        for name, weight in model.named_parameters():
            if id(weight) in is_table:  # and for each row the sum over those steps that its average has seen
                self._tables[name] = (weight, averages[name], torch.zeros(len(weight), dtype=torch.float64))
            else:
                self._dense.append((weight, averages[name]))

    @torch.no_grad()
    def before_step(self) -> None:
        """To be called between the backward pass and the optimizer's step."""
        for weight_RD, average_RD, seen_R in self._tables.values():
            gradient = weight_RD.grad
            if gradient is not None:
                row_N = gradient._indices()[0].contiguous().numpy() if gradient.is_sparse else None
                self._catch_up(weight_RD, average_RD, seen_R, row_N)

    @torch.no_grad()
    def after_step(self) -> None:
        """To be called after the optimizer's step."""
        self._num_steps += 1
        decay = self._decay * (1 - self._decay ** (self._num_steps - 1)) / (1 - self._decay**self._num_steps)
        self._log_decay += math.log(max(decay, _LEAST_DECAY))
        for weight, average in self._dense:
            average.lerp_(weight, 1 - decay)

    @torch.no_grad()
    def current(self) -> M:
        """The averaged model in eval mode, every row up to date; later steps change it."""
        for table in self._tables.values():
            self._catch_up(*table)
        return self._average

    def state_dict(self) -> dict[str, torch.Tensor]:
        """Everything, as it stands: rows that wait stay waiting."""
        state = {f"average.{name}": value for name, value in self._average.state_dict().items()}
        state |= {f"seen.{name}": seen_R for name, (_, _, seen_R) in self._tables.items()}
        return state | {
            "num_steps": torch.tensor(self._num_steps),
            "log_decay": torch.tensor(self._log_decay, dtype=torch.float64),
        }

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        average = {name.removeprefix("average."): value for name, value in state.items() if name.startswith("average.")}
        self._average.load_state_dict(average)
        for name, (_, _, seen_R) in self._tables.items():
            seen_R.copy_(state[f"seen.{name}"])
        self._num_steps, self._log_decay = int(state["num_steps"]), float(state["log_decay"])

    def _catch_up(
        self, weight_RD: torch.Tensor, average_RD: torch.Tensor, seen_R: torch.Tensor, row_N: np.ndarray | None = None
    ) -> None:
        """Let the averages of some rows, or of all, see all steps so far."""
        rows = np.arange(len(weight_RD)) if row_N is None else row_N
        _catch_up(weight_RD.detach().numpy(), average_RD.numpy(), seen_R.numpy(), rows, self._log_decay)


@numba.njit(nogil=True, cache=True)
def _catch_up(
    weight_RD: np.ndarray, average_RD: np.ndarray, seen_R: np.ndarray, row_N: np.ndarray, log_decay: float
) -> None:
    for row in row_N:
        if seen_R[row] != log_decay:
            share = np.float32(1 - np.exp(log_decay - seen_R[row]))
            for d in range(weight_RD.shape[1]):
                average_RD[row, d] += share * (weight_RD[row, d] - average_RD[row, d])
            seen_R[row] = log_decay
