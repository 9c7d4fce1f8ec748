"""The sources that search the index, against exact inner products."""

import numpy as np
import pytest

from retrieval.config import IndexConfig
from retrieval.index import build
from retrieval.sources import NewItems, Past, TwoTowerSource, Users


@pytest.mark.parametrize("k", [1, 7, 30, 50])
def test_two_tower_proposes_the_highest_inner_products(sources, users: Users, item_vectors, assert_best, k: int):
    score_BI = users.query_BE.astype(np.float64) @ item_vectors.T.astype(np.float64)
    assert_best(sources["two_tower"].propose(users, k), score_BI, users)


@pytest.mark.parametrize("k", [1, 3, 30])
def test_new_items_are_those_that_nobody_had(sources, past: Past, users: Users, item_vectors, assert_best, k: int):
    score_BI = users.query_BE.astype(np.float64) @ item_vectors.T.astype(np.float64)
    score_BI[:, past.num_events > 0] = -np.inf
    found = sources["new_items"].propose(users, k)
    assert_best(found, score_BI, users)
    assert (found.row_BK >= 0).any()


def test_equal_scores_come_by_item_row(users: Users):
    whole = np.random.default_rng(1).integers(-1, 2, (40, 4)).astype(np.float32)  # exact products, many of them equal
    asked = Users({}, users.history_BN, users.forbidden_BS, np.ones_like(users.query_BE))
    found = TwoTowerSource(build(whole, IndexConfig(kind="flat"))).propose(asked, 40)
    for user, forbidden in enumerate(users.forbidden_BS):
        allowed = [item for item in range(40) if item not in forbidden]
        best = sorted(allowed, key=lambda item: (-whole[item].sum(), item))
        assert found.row_BK[user].tolist() == best + [-1] * (40 - len(best))
    index = build(np.ones((9, 4), np.float32), IndexConfig(kind="flat"))
    forbidden_BS = np.tile([3, 0], (len(users), 1))
    asked = Users({}, users.history_BN, forbidden_BS, users.query_BE)
    assert (TwoTowerSource(index).propose(asked, 4).row_BK == [1, 2, 4, 5]).all()
    assert (NewItems.of(index, np.arange(9) >= 5).propose(asked, 3).row_BK == [5, 6, 7]).all()


def test_without_a_new_item_nothing_is_proposed(users: Users, item_vectors):
    index = build(item_vectors, IndexConfig(kind="flat"))
    assert (NewItems.of(index, np.zeros(len(item_vectors), bool)).propose(users, 5).row_BK == -1).all()
