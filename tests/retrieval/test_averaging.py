"""The average of the weights, kept lazily, against torch's own, which goes over every weight at every step."""

import copy

import pytest
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel as StockAverage

from features.rowwise_adagrad import RowwiseAdagrad
from retrieval.training.averaging import AveragedModel

DECAY = 0.9


class Scorer(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(30, 4, sparse=True)
        self.small = nn.Embedding(5, 4)
        self.out = nn.Linear(4, 1)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return self.out(self.table(ids) + self.small(ids % 5)).square().sum()


class Trained:
    def __init__(self, decay: float = DECAY) -> None:
        torch.manual_seed(0)
        self.model = Scorer()
        tables = [self.model.table.weight, self.model.small.weight]
        self.optimizers = [RowwiseAdagrad(tables, 0.1), torch.optim.SGD(self.model.out.parameters(), 0.01)]
        self.lazy = AveragedModel(self.model, tables, decay)

    def step(self, ids: list[int]) -> None:
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        self.model(torch.tensor(ids)).backward()
        self.lazy.before_step()
        for optimizer in self.optimizers:
            optimizer.step()
        self.lazy.after_step()


def decay_of(step: torch.Tensor | int) -> float:
    return DECAY * (1 - DECAY ** (int(step) - 1)) / (1 - DECAY ** int(step))


STEPS = [[1, 1, 7], [2], [7, 29, 29], [3, 1], [2], [2]] * 30


def assert_equal_weights(one: nn.Module, other: nn.Module) -> None:
    for name, weight in one.state_dict().items():
        torch.testing.assert_close(weight, other.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("reads_between", [False, True])
def test_it_is_the_average_over_every_step_of_every_weight(reads_between: bool):
    trained = Trained()
    stock = StockAverage(trained.model, avg_fn=lambda average, weight, step: average.lerp(weight, 1 - decay_of(step)))
    stock.update_parameters(trained.model)  # the first call copies
    for ids in STEPS:
        trained.step(ids)
        stock.update_parameters(trained.model)
        if reads_between:
            assert_equal_weights(trained.lazy.current(), stock.module)
    assert_equal_weights(trained.lazy.current(), stock.module)
    assert not torch.allclose(trained.lazy.current().table.weight, trained.model.table.weight)


def test_a_row_that_no_step_touches_keeps_its_first_weights():
    trained = Trained()
    first = trained.model.table.weight[0].detach().clone()
    for ids in STEPS:
        trained.step(ids)
    assert torch.equal(trained.lazy.current().table.weight[0], first)


def test_saved_in_the_middle_it_goes_on_to_the_same_average():
    one, other = Trained(), Trained()
    for ids in STEPS[:8]:
        one.step(ids)
    other.model.load_state_dict(one.model.state_dict())
    for mine, theirs in zip(one.optimizers, other.optimizers, strict=True):
        theirs.load_state_dict(copy.deepcopy(mine.state_dict()))
    other.lazy.load_state_dict({name: value.clone() for name, value in one.lazy.state_dict().items()})
    for ids in STEPS[8:]:
        one.step(ids)
        other.step(ids)
    for name, weight in one.lazy.current().state_dict().items():
        assert torch.equal(weight, other.lazy.current().state_dict()[name])


def test_the_first_weights_of_all_have_no_say():
    trained = Trained()
    trained.step([1, 2])
    assert_equal_weights(trained.lazy.current(), trained.model)


def test_without_decay_the_average_is_the_last_weights():
    trained = Trained(decay=0.0)
    for ids in STEPS:
        trained.step(ids)
    assert_equal_weights(trained.lazy.current(), trained.model)
