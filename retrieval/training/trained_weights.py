"""A model's weights while it is trained: who moves them, and their average.

Embedding tables are moved by row-wise Adagrad and averaged row by row, so that a step costs what its batch touches, not
what the catalogue and the users need; everything else by AdamW.
"""

from __future__ import annotations

import torch

from features.checkpoint import below, under
from features.embedding import with_sparse_gradients
from features.rowwise_adagrad import RowwiseAdagrad
from retrieval.config import RetrievalConfig
from retrieval.training.averaging import AveragedModel
from retrieval.two_tower import TwoTower


class TrainedWeights:
    """Args:
    model: whose layers have taken their shapes; its tables get sparse gradients.
    """

    def __init__(self, model: TwoTower, config: RetrievalConfig) -> None:
        model.log_temperature.requires_grad_(config.two_tower.learned_temperature)
        tables = with_sparse_gradients(model)
        are_tables = {id(table) for table in tables}
        dense = [weight for weight in model.parameters() if weight.requires_grad and id(weight) not in are_tables]
        self.model = model
        self._tables = {name: weight for name, weight in model.named_parameters() if id(weight) in are_tables}
        self.average = AveragedModel(model, tables, config.averaging)
        self._optimizers: dict[str, torch.optim.Optimizer] = {
            "tables": RowwiseAdagrad(tables, config.table_learning_rate),
            "dense": torch.optim.AdamW(dense, config.learning_rate, weight_decay=config.weight_decay, fused=True),
        }

    @property
    def row_sums(self) -> dict[str, torch.Tensor]:
        """By table, row-wise Adagrad's sum of each row, [R]; the tensors in use."""
        return {name: self._optimizers["tables"].state[table]["sum"] for name, table in self._tables.items()}

    def step(self, loss: torch.Tensor) -> None:
        """Move all weights, and their average, by one step down the loss."""
        for optimizer in self._optimizers.values():
            optimizer.zero_grad()
        loss.backward()
        self.average.before_step()
        for optimizer in self._optimizers.values():
            optimizer.step()
        self.average.after_step()

    def state_dict(self) -> dict[str, torch.Tensor]:
        """All that the next step depends on; the tensors are those in use, not copies."""
        state = under("model", self.model.state_dict()) | under("averaging", self.average.state_dict())
        for kind, optimizer in self._optimizers.items():
            for number, values in optimizer.state_dict()["state"].items():
                state |= under(f"{kind}.{number}", values)
        return state

    def load_state_dict(self, state: dict[str, torch.Tensor]) -> None:
        self.model.load_state_dict(below("model", state))
        self.average.load_state_dict(below("averaging", state))
        for kind, optimizer in self._optimizers.items():
            values: dict[int, dict[str, torch.Tensor]] = {}
            for name, value in below(kind, state).items():
                number, key = name.split(".")
                values.setdefault(int(number), {})[key] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": values})
