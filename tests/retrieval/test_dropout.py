"""Dropout against its definition."""

import pytest
import torch

from retrieval.training.dropout import Dropout


@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_share_becomes_zero_and_the_mean_stays(share: float):
    torch.manual_seed(0)
    dropped = Dropout(share)(torch.ones(300, 401))
    assert float((dropped == 0).float().mean()) == pytest.approx(share, abs=0.005)
    assert torch.allclose(dropped[dropped > 0], torch.tensor(1 / (1 - share)), rtol=1e-3)
    rows, columns = (dropped == 0).float().mean(1), (dropped == 0).float().mean(0)
    assert (rows - share).abs().max() < 0.15
    assert (columns - share).abs().max() < 0.15


def test_the_gradient_goes_where_the_value_went():
    torch.manual_seed(0)
    inputs = torch.ones(50, 3, requires_grad=True)
    dropped = Dropout(0.5)(inputs)
    dropped.sum().backward()
    assert inputs.grad is not None
    assert torch.equal(inputs.grad, dropped.detach())


def test_it_does_nothing_when_not_training_or_without_a_share():
    inputs = torch.randn(5, 7)
    assert torch.equal(Dropout(0.5).eval()(inputs), inputs)
    assert torch.equal(Dropout(0.0)(inputs), inputs)


def test_an_equal_seed_drops_the_same():
    def dropped() -> torch.Tensor:
        torch.manual_seed(3)
        return Dropout(0.3)(torch.ones(11, 3))

    assert torch.equal(dropped(), dropped())
