"""The losses of lists against their formulas by hand, and a made world whose probabilities are known."""

import math

import numpy as np
import pytest
import torch

from ranking.losses import LOSSES, bce, discounts, ideal_gain, lambdarank, listwise, pairwise

SCORE = torch.tensor([[1.0, 2.0, -1.0, 0.5], [0.5, 9.0, 3.0, 0.0]])
TAKEN = torch.tensor([[1.0, 0.0, 0.0, 1.0], [1.0, 0.0, 0.0, 0.0]])
SHOWN = torch.tensor([[1.0, 1.0, 1.0, 1.0], [1.0, 0.0, 1.0, 0.0]])
ALL = torch.ones(2)


def test_listwise_is_its_formula():
    total = sum(math.exp(score) for score in (1, 2, -1, 0.5))
    first = -(math.log(math.exp(1) / total) + math.log(math.exp(0.5) / total)) / 2
    second = -math.log(math.exp(0.5) / (math.exp(0.5) + math.exp(3)))
    assert listwise(SCORE, TAKEN, SHOWN, ALL).tolist() == pytest.approx([first, second], rel=1e-6)


def pair(better: float, worse: float) -> float:
    return math.log(1 + math.exp(-(better - worse)))


def test_pairwise_is_its_formula():
    first = (pair(1, 2) + pair(1, -1) + pair(0.5, 2) + pair(0.5, -1)) / 4
    assert pairwise(SCORE, TAKEN, SHOWN, ALL).tolist() == pytest.approx([first, pair(0.5, 3)], rel=1e-6)


def test_lambdarank_weighs_each_pair_by_what_swapping_it_changes_in_ndcg():
    at = [1 / math.log2(1 + rank) for rank in (1, 2, 3, 4)]
    ideal = at[0] + at[1]
    # By score: item 1, item 0 (taken), item 3 (taken), item 2.
    pairs = [(pair(1, 2), at[1] - at[0]), (pair(1, -1), at[1] - at[3])]
    pairs += [(pair(0.5, 2), at[2] - at[0]), (pair(0.5, -1), at[2] - at[3])]
    first = sum(loss * abs(change) for loss, change in pairs) / ideal
    second = pair(0.5, 3) * (at[0] - at[1])
    assert lambdarank(SCORE, TAKEN, SHOWN, ALL).tolist() == pytest.approx([first, second], rel=1e-6)


def test_lambdarank_leaves_pairs_beyond_the_tenth_place_alone():
    score = -torch.arange(14.0)[None].requires_grad_()
    score.retain_grad()
    taken = torch.zeros(1, 14)
    taken[0, 12] = 1
    lambdarank(score, taken, torch.ones(1, 14), torch.ones(1)).sum().backward()
    assert score.grad is not None
    assert score.grad[0, 10] == score.grad[0, 11] == score.grad[0, 13] == 0
    assert (score.grad[0, :10] > 0).all() and score.grad[0, 12] < 0


def test_bce_is_its_formula_with_the_odds_of_all_candidates():
    def log_loss(score: float, taken: bool, rate: float) -> float:
        p = 1 / (1 + math.exp(-score))
        in_sample = p / (p + (1 - p) * rate)  # of the items not taken a share `rate` is there
        return -math.log(in_sample if taken else 1 - in_sample)

    first = sum(log_loss(score, taken, 0.25) for score, taken in ((1, True), (2, False), (-1, False), (0.5, True))) / 4
    second = (log_loss(0.5, True, 1) + log_loss(3, False, 1)) / 2
    assert bce(SCORE, TAKEN, SHOWN, torch.tensor([0.25, 1.0])).tolist() == pytest.approx([first, second], rel=1e-5)


def test_bce_probabilities_are_those_of_all_candidates_although_few_negatives_were_kept():
    random = np.random.default_rng(0)
    truth = 1 / (1 + np.exp(-random.normal(-3, 1, 20_000)))
    taken = random.random(20_000) < truth
    kept = taken | (random.random(20_000) < 0.1)
    logit = np.log(truth / (1 - truth))
    bias, slope = torch.zeros(1, requires_grad=True), torch.ones(1, requires_grad=True)
    feature = torch.from_numpy(logit[kept]).float()[None]
    optimizer = torch.optim.LBFGS([bias, slope], max_iter=50)

    def step() -> torch.Tensor:
        optimizer.zero_grad()
        loss = bce(
            slope * feature + bias,
            torch.from_numpy(taken[kept]).float()[None],
            torch.ones(feature.shape),
            torch.tensor([0.1]),
        )
        loss.sum().backward()
        return loss.sum()

    optimizer.step(step)  # pyright: ignore[reportArgumentType]
    predicted = 1 / (1 + np.exp(-(slope.item() * logit + bias.item())))
    assert predicted.mean() == pytest.approx(taken.mean(), rel=0.03)
    high = truth > np.quantile(truth, 0.9)
    assert predicted[high].mean() == pytest.approx(taken[high].mean(), rel=0.05)
    assert taken[kept].mean() > 3 * taken.mean()  # what the sample shows is far from it


@pytest.mark.parametrize("name", LOSSES)
def test_an_empty_place_gets_no_gradient_and_better_orders_cost_less(name):
    score = torch.tensor([[1.0, 2.0, 3.0]], requires_grad=True)
    taken, shown = torch.tensor([[1.0, 0.0, 0.0]]), torch.tensor([[1.0, 0.0, 1.0]])
    loss = LOSSES[name](score, taken, shown, torch.ones(1))
    loss.sum().backward()
    assert score.grad is not None
    assert score.grad[0, 1] == 0 and score.grad[0, 0] < 0 < score.grad[0, 2]
    better = LOSSES[name](torch.tensor([[4.0, 2.0, 3.0]]), taken, shown, torch.ones(1))
    assert better.item() < loss.item()


@pytest.mark.parametrize("name", ["lambdarank", "listwise", "pairwise"])
def test_a_taken_item_alone_costs_nothing(name):
    alone = torch.tensor([[1.0, 0.0]])
    assert LOSSES[name](torch.tensor([[5.0, 1.0]]), alone, alone, torch.ones(1)).item() == 0


def test_discounts_follow_the_score_and_ties_the_place():
    score = torch.tensor([[1.0, 3.0, 3.0, 9.0]])
    shown = torch.tensor([[1.0, 1.0, 1.0, 0.0]])
    assert discounts(score, shown)[0].tolist() == pytest.approx([0.5, 1.0, 1 / math.log2(3), 0.0])
    assert ideal_gain(torch.tensor([0, 1, 2, 50])).tolist() == pytest.approx(
        [1.0, 1.0, 1 + 1 / math.log2(3), sum(1 / math.log2(1 + rank) for rank in range(1, 11))]
    )
