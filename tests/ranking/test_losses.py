"""The list softmax against its formula by hand."""

import math

import pytest
import torch

from ranking.losses import list_softmax


def test_loss_is_its_formula():
    score = torch.tensor([[1.0, 2.0, -1.0], [0.5, 9.0, 3.0]])
    is_shown = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, 1.0]])
    first = -math.log(math.exp(1) / (math.exp(1) + math.exp(2) + math.exp(-1)))
    second = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(3)))
    assert list_softmax(score, is_shown).tolist() == pytest.approx([first, second], rel=1e-6)


def test_an_empty_place_gets_no_gradient():
    score = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    list_softmax(score, torch.tensor([[1.0, 0.0, 1.0]])).sum().backward()
    assert score.grad is not None
    assert score.grad[0, 1] == 0 and score.grad[0, 0] < 0 < score.grad[0, 2]


def test_an_item_alone_costs_nothing():
    assert list_softmax(torch.tensor([[5.0, 1.0]]), torch.tensor([[1.0, 0.0]])).item() == 0
