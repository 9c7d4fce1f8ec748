"""The popularity's share of the scores against the same sum with the whole array."""

import torch

from retrieval.training.popularity_scores import popularity_scores


def test_scores_and_their_gradient_are_those_of_the_sum_written_out():
    torch.manual_seed(0)
    popularity = torch.randn(4, 7, 3)
    moment = torch.tensor([3, 0, 3, 1, 1])
    weight, same = (torch.linspace(-1, 1, 15).reshape(5, 3).requires_grad_() for _ in range(2))
    into = torch.randn(5, 7)
    scores = popularity_scores(popularity, moment, weight)
    expected = torch.einsum("bcp,bp->bc", popularity[moment], same)
    torch.testing.assert_close(scores, expected)
    (scores * into).sum().backward()
    (expected * into).sum().backward()
    torch.testing.assert_close(weight.grad, same.grad)


def test_a_row_does_not_depend_on_the_others():
    popularity, weight = torch.randn(4, 7, 3), torch.randn(5, 3)
    moment = torch.tensor([3, 0, 3, 1, 1])
    alone = [popularity_scores(popularity, moment[row : row + 1], weight[row : row + 1]) for row in range(5)]
    assert torch.equal(torch.cat(alone), popularity_scores(popularity, moment, weight))
