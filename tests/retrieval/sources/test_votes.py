"""Votes of histories against SciPy's sparse product."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from retrieval.sources import Users
from retrieval.sources.source import best_of_rows, fading
from retrieval.sources.votes import best_by_votes

NO_ITEM = -1
NUM_ITEMS = 40


def drawn(seed: int, density: float, length: int, num_users: int = 6) -> tuple[sparse.csr_matrix, Users]:
    random = np.random.default_rng(seed)
    similarity = sparse.random(NUM_ITEMS, NUM_ITEMS, density, "csr", np.float32, random)
    similarity.data -= np.float32(0.2)  # some votes are against
    history_BN = random.integers(NO_ITEM, NUM_ITEMS, (num_users, length))
    forbidden_BS = random.integers(NO_ITEM, NUM_ITEMS, (num_users, 5))
    return similarity, asking(history_BN, forbidden_BS)


def asking(history_BN: np.ndarray, forbidden_BS: np.ndarray) -> Users:
    return Users({}, history_BN, forbidden_BS, np.empty((len(history_BN), 0), np.float32))


@given(st.integers(0, 2**31), st.sampled_from([0.0, 0.1, 0.9]), st.integers(0, 60), st.integers(0, NUM_ITEMS + 3))
def test_they_are_the_sparse_product_and_its_best(seed, density, length, k):
    similarity, users = drawn(seed, density, length)
    found = best_by_votes(users, fading(users.history_BN, 0.8), similarity, k)
    votes = users.votes(NUM_ITEMS, length, 0.8)
    expected = best_of_rows((votes @ similarity).tocsr(), users, k)
    np.testing.assert_allclose(found.score_BK, expected.score_BK, rtol=1e-5, atol=1e-6)
    score_BI = np.asarray((votes.astype(np.float64) @ similarity).todense())
    for user, row_K in enumerate(found.row_BK):
        item = row_K[row_K != NO_ITEM]
        assert len(set(item.tolist())) == len(item) and not np.isin(item, users.forbidden_BS[user]).any()
        np.testing.assert_allclose(found.score_BK[user, : len(item)], score_BI[user, item], rtol=1e-5, atol=1e-6)


def test_an_item_that_stands_twice_counts_twice_or_once():
    similarity = sparse.csr_matrix(np.array([[0, 1.0, 3.0], [0, 0, 0], [0, 4.0, 0]], np.float32))
    user = asking(np.array([[0, 2, 0]]), np.empty((1, 0), np.int64))
    twice = best_by_votes(user, np.array([1, 0.5, 0.25]), similarity, 3)
    assert twice.row_BK.tolist() == [[2, 1, NO_ITEM]]
    assert twice.score_BK[0, :2].tolist() == [3 * 1.25, 1.25 + 4 * 0.5]
    once = best_by_votes(user, np.array([1, 0.5, 0.25]), similarity, 3, repeats_count=False)
    assert once.row_BK.tolist() == [[1, 2, NO_ITEM]] and once.score_BK[0, :2].tolist() == [5, 3]


def test_what_nobody_may_be_shown_is_left_out_and_nothing_stays_behind():
    similarity, users = drawn(7, 0.9, 20)
    weight_N = fading(users.history_BN, 0.8)
    everything = best_by_votes(users, weight_N, similarity, NUM_ITEMS)
    allowed_I = np.arange(NUM_ITEMS) % 3 > 0
    some = best_by_votes(replace(users, allowed_I=allowed_I), weight_N, similarity, NUM_ITEMS)
    for row_K, among_K in zip(some.row_BK, everything.row_BK, strict=True):
        assert row_K[row_K != NO_ITEM].tolist() == [item for item in among_K if item != NO_ITEM and allowed_I[item]]
    again = best_by_votes(users, weight_N, similarity, NUM_ITEMS)
    np.testing.assert_array_equal(again.score_BK, everything.score_BK)


@pytest.mark.parametrize("k", [1, 3])
def test_equal_sums_come_by_item_row(k):
    similarity = sparse.csr_matrix(np.array([[0, 0.5, 0.5, 0.5, 0.5]] + [[0] * 5] * 4, np.float32))
    found = best_by_votes(asking(np.array([[0]]), np.array([[2]])), np.ones(1), similarity, k)
    assert found.row_BK.tolist() == [[1, 3, 4][:k]]
