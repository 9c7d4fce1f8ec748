"""Row-wise Adagrad against its formula."""

import numpy as np
import pytest
import torch
from torch import nn

from features.rowwise_adagrad import RowwiseAdagrad


@pytest.mark.parametrize("sparse", [True, False])
def test_steps_are_those_of_the_formula_and_other_rows_stay(sparse: bool):
    torch.manual_seed(0)
    table = nn.Embedding(6, 4, sparse=sparse)
    target = torch.randn(3, 4)
    expected, sums = table.weight.detach().numpy().copy(), np.zeros(6)
    optimizer = RowwiseAdagrad([table.weight], learning_rate=0.1)
    for ids in ([1, 3, 3], [3, 0, 1], [5, 5, 5]):
        optimizer.zero_grad()
        (table(torch.tensor(ids)) - target).square().sum().backward()
        gradient = np.zeros_like(expected)
        np.add.at(gradient, ids, 2 * (expected[ids] - target.numpy()))
        sums += np.square(gradient).mean(1)
        step = gradient / (np.sqrt(sums) + 1e-10)[:, None]
        expected -= 0.1 * step
        optimizer.step()
        np.testing.assert_allclose(table.weight.detach().numpy(), expected, rtol=1e-5)


def test_a_row_with_no_gradient_at_all_does_not_move():
    table = nn.Embedding(3, 2, sparse=True)
    before = table.weight.detach().clone()
    optimizer = RowwiseAdagrad([table.weight], learning_rate=1.0)
    optimizer.step()
    (0 * table(torch.tensor([1])).sum()).backward()
    optimizer.step()
    assert torch.equal(table.weight.detach(), before)
