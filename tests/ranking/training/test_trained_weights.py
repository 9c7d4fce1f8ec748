"""Steps of a small model whose gradients are known."""

import pytest
import torch
from torch import nn

from features.rowwise_adagrad import RowwiseAdagrad
from ranking.training.schedule import RateSchedule
from ranking.training.trained_weights import Rates, TrainedWeights

RATES = Rates(dense=0.1, tables=0.5, weight_decay=0.01, clip_norm=0.0, schedule=RateSchedule(10))


class Scorer(nn.Module):
    """A table and a linear layer; `told` are the rates of tables that would move by themselves."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(6, 3, sparse=True)
        self.layer = nn.Linear(3, 1)
        self.dropout = nn.Dropout(0.3)
        self.told: list[float] = []

    def forward(self, rows: torch.Tensor) -> torch.Tensor:
        return self.layer(self.dropout(self.table(rows))).squeeze(-1)

    def sparse_parameters(self) -> list[nn.Parameter]:
        return [self.table.weight]

    def dense_parameters(self) -> list[nn.Parameter]:
        return list(self.layer.parameters())

    def set_table_learning_rate(self, rate: float) -> None:
        self.told.append(rate)

    def table_optimizer_state(self) -> dict[str, torch.Tensor]:
        return {"count": torch.tensor(len(self.told))}

    def load_table_optimizer_state(self, state: dict[str, torch.Tensor]) -> None:
        self.told = [0.0] * int(state["count"])


def loss_of(model: Scorer, scale: float = 1.0) -> torch.Tensor:
    return scale * model(torch.tensor([1, 2, 2, 5])).square().sum()


def step(weights: TrainedWeights, scale: float = 1.0) -> None:
    weights.begin_step()
    weights.step(loss_of(weights.model, scale))  # type: ignore[arg-type]


def test_without_clipping_and_schedule_a_step_is_that_of_the_two_optimizers():
    ours, theirs = Scorer(), Scorer()
    weights = TrainedWeights(ours, RATES)
    adam = torch.optim.AdamW(theirs.dense_parameters(), 0.1, weight_decay=0.01)
    adagrad = RowwiseAdagrad(theirs.sparse_parameters(), 0.5)
    for number in range(4):
        torch.manual_seed(number)
        step(weights)
        torch.manual_seed(number)
        for optimizer in (adam, adagrad):
            optimizer.zero_grad()
        loss_of(theirs).backward()
        for optimizer in (adam, adagrad):
            optimizer.step()
    for name, value in ours.state_dict().items():
        torch.testing.assert_close(value, theirs.state_dict()[name], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("scale", [1e-6, 1.0, 1e6])
def test_clipping_shortens_a_long_gradient_to_the_norm_and_leaves_a_short_one(scale: float):
    def gradient(clip_norm: float) -> torch.Tensor:
        model = Scorer()
        model.dropout.p = 0.0
        step(TrainedWeights(model, Rates(0.1, 0.5, 0.0, clip_norm, RateSchedule(10))), scale)
        return torch.cat([weight.grad.flatten() for weight in model.dense_parameters() if weight.grad is not None])

    free, clipped = gradient(0.0), gradient(0.25)
    length = free.norm().item()
    assert clipped.norm().item() == pytest.approx(min(length, 0.25), rel=1e-4)
    torch.testing.assert_close(clipped / clipped.norm(), free / free.norm(), rtol=1e-4, atol=1e-6)


def test_the_schedule_sets_the_rates_of_all_weights_before_the_forward_pass():
    model = Scorer()
    schedule = RateSchedule(10, warmup_steps=3, decay="linear")
    weights = TrainedWeights(model, Rates(0.1, 0.5, 0.0, 0.0, schedule))
    for number in range(6):
        weights.begin_step()
        groups = {kind: one.param_groups[0]["lr"] for kind, one in weights._optimizers.items()}
        assert groups == {"dense": 0.1 * schedule.share(number), "tables": 0.5 * schedule.share(number)}
        weights.step(loss_of(model))
    assert model.told == [0.5 * schedule.share(number) for number in range(6)]
    assert weights.learning_rates(1) == {"learning_rate": 0.05, "table_learning_rate": 0.25}


def test_whoever_takes_up_the_state_goes_on_with_the_same_bits():
    rates = Rates(0.1, 0.5, 0.01, 0.2, RateSchedule(10, 2, "cosine"))
    whole, first = (TrainedWeights(Scorer(), rates) for _ in range(2))

    def steps(weights: TrainedWeights, begin: int, end: int) -> None:
        for number in range(begin, end):
            torch.manual_seed(number)
            step(weights)

    steps(whole, 0, 8)
    steps(first, 0, 3)
    state = {name: value.clone() for name, value in first.state_dict().items()}
    resumed = TrainedWeights(Scorer(), rates)
    resumed.load_state_dict(state)
    assert resumed.num_steps == 3 and len(resumed.model.told) == 3  # type: ignore[attr-defined]
    steps(resumed, 3, 8)
    one, other = whole.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys() and {"tables.0.sum", "dense.1.exp_avg", "fused.count"} <= one.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)
