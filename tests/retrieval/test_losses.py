"""The sampled softmax against its formula by hand, and the draw behind its correction."""

import math

import pytest
import torch

from retrieval.training.hard_items import hard_items
from retrieval.training.losses import sampled_softmax
from retrieval.training.scored_items import ScoredItems


def test_loss_is_its_formula():
    score = torch.tensor([[1.0, 2.0, -1.0], [0.5, 0.0, 3.0]])
    log_q = torch.tensor([0.5, 0.25, 1.0]).log()
    first = -math.log(math.exp(2) / 0.25 / (math.exp(1) / 0.5 + math.exp(2) / 0.25 + math.exp(-1)))
    second = -math.log(math.exp(0.5) / 0.5 / (math.exp(0.5) / 0.5 + 1 / 0.25 + math.exp(3)))
    loss = sampled_softmax(score, torch.tensor([1, 0]), log_q)
    assert float(loss) == pytest.approx((first + second) / 2, rel=1e-6)


def test_an_item_left_out_has_no_say():
    score = torch.tensor([[1.0, -torch.inf, 0.0]])
    expected = -math.log(math.exp(1) / (math.exp(1) + 1))
    assert float(sampled_softmax(score, torch.tensor([0]), torch.zeros(3))) == pytest.approx(expected, rel=1e-6)


def test_a_small_catalogue_is_scored_whole_without_correction():
    item_row, column, log_q = ScoredItems(torch.tensor([0, 1, 1]), 4, num_scored=10).draw(torch.tensor([3, 1, 1]))
    assert item_row.tolist() == [0, 1, 2, 3]
    assert column.tolist() == [3, 1, 1]
    assert log_q.tolist() == [0, 0, 0, 0]


def test_smoothing_asks_for_a_share_of_every_scored_item():
    score = torch.tensor([[1.0, 2.0, -1.0]])
    log_q = torch.tensor([0.5, 0.25, 1.0]).log()
    weights = [math.exp(1) / 0.5, math.exp(2) / 0.25, math.exp(-1)]
    log_share = [math.log(weight / sum(weights)) for weight in weights]
    expected = -(0.7 * log_share[1] + 0.3 * sum(log_share) / 3)
    assert float(sampled_softmax(score, torch.tensor([1]), log_q, smoothing=0.3)) == pytest.approx(expected, rel=1e-6)


def test_all_positives_are_scored_and_no_item_twice():
    torch.manual_seed(0)
    positive = torch.tensor([7, 3, 7, 99])
    item_row, column, log_q = ScoredItems(torch.tensor([3, 7, 99]), 100, num_scored=20).draw(positive)
    assert torch.equal(item_row[column], positive)
    assert len(item_row) == len(set(item_row.tolist())) == 20
    assert len(log_q) == 20


def test_a_batch_that_has_the_whole_catalogue_is_scored_with_it():
    item_row, column, log_q = ScoredItems(torch.arange(10), 10, num_scored=5).draw(torch.arange(10))
    assert item_row.tolist() == column.tolist() == list(range(10))
    assert torch.allclose(log_q.exp(), torch.full((10,), 1 - 0.9**10))


def test_the_others_are_drawn_evenly():
    torch.manual_seed(0)
    items, counts = ScoredItems(torch.tensor([0, 3, 9]), 10, num_scored=5), torch.zeros(10)
    for _ in range(3_000):
        counts[items.draw(torch.tensor([0, 3, 9]))[0]] += 1
    assert counts[[0, 3, 9]].tolist() == [3_000] * 3
    assert torch.allclose(counts[[1, 2, 4, 5, 6, 7, 8]] / 3_000, torch.tensor(2 / 7), atol=0.03)


def test_more_positives_than_room_are_all_scored():
    item_row, column, _ = ScoredItems(torch.arange(50), 100, num_scored=2).draw(torch.arange(10))
    assert item_row.tolist() == column.tolist() == list(range(10))


@pytest.mark.parametrize("num_hard", [0, 3])
def test_the_correction_is_how_often_an_item_is_scored(num_hard: int):
    torch.manual_seed(0)
    share = torch.tensor([0.5, 0.3, 0.1, 0.1] + [0.0] * 16)
    examples = torch.repeat_interleave(torch.arange(20), (share * 100).long())
    items = ScoredItems(examples, 20, num_scored=8)
    items.add_hard(torch.tensor([19, 19, 18, 3]), num_hard)
    scored, claimed, num_draws = torch.zeros(20), torch.zeros(20), 4_000
    for _ in range(num_draws):
        item_row, _, log_q = items.draw(examples[torch.randint(len(examples), (4,))])
        scored[item_row] += 1
        claimed[item_row] += log_q.exp()
    assert torch.allclose(claimed / scored, scored / num_draws, atol=0.05)


def test_hard_items_are_scored_on_top_of_the_others_and_no_item_twice():
    torch.manual_seed(0)
    items = ScoredItems(torch.tensor([3, 7, 99]), 100, num_scored=20)
    items.add_hard(torch.tensor([7, 50, 50, 50]), num_hard=30)
    item_row, column, log_q = items.draw(torch.tensor([7, 3]))
    assert item_row[column].tolist() == [7, 3]
    assert 50 in item_row.tolist()
    assert 20 <= len(item_row) == len(set(item_row.tolist())) == len(log_q) <= 21


def test_hard_items_are_the_first_of_each_query_but_its_own():
    score = torch.tensor([[0.0, 3.0, 2.0, 1.0], [5.0, 1.0, 2.0, 0.0]])
    assert hard_items(score, torch.tensor([2, 0]), depth=2).tolist() == [1, 2]
    assert sorted(hard_items(score, torch.tensor([2, 0]), depth=9).tolist()) == [0, 1, 1, 2, 3, 3]
