"""The linear model against the dense EASE formula."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval.sources import Linear, Past, Users, linear

NO_ITEM = -1


def ease(past: Past, items: np.ndarray, l2: float) -> np.ndarray:
    """[I, I] float64: Steck 2019, equation 8, over some of the items, 0 for the others."""
    user_item = np.zeros((past.num_users, past.num_items))
    user_item[past.user_row, past.item_row] = 1
    precision = np.linalg.inv(user_item[:, items].T @ user_item[:, items] + l2 * np.eye(len(items)))
    weights = np.zeros((past.num_items, past.num_items))
    weights[np.ix_(items, items)] = np.eye(len(items)) - precision / np.diag(precision)
    return weights


def scores(weights: np.ndarray, users: Users) -> np.ndarray:
    had_BI = np.zeros((len(users), len(weights)))
    for user, history in enumerate(users.history_BN):
        had_BI[user, history[history != NO_ITEM]] = 1
    score_BI = had_BI @ weights
    return np.where(score_BI > 1e-7, score_BI, -np.inf)


@pytest.mark.parametrize("l2", [1.0, 30.0])
def test_it_is_ease_where_nothing_is_cut_off(past: Past, users: Users, assert_best, l2: float):
    source = Linear(l2).fit(past)
    weights = ease(past, np.flatnonzero(past.num_events), l2)
    assert not np.diag(weights).any()
    np.testing.assert_allclose(source.weights.toarray(), weights, rtol=1e-3, atol=1e-6)
    assert_best(source.propose(users, 10), scores(weights, users), users)


def test_a_large_catalogue_is_cut_to_the_items_with_the_most_interactions(past: Past):
    most = np.lexsort((np.arange(past.num_items), -past.num_events))[:9]
    weights = Linear(5.0).fit(replace(past, max_linear_items=9)).weights.toarray()
    np.testing.assert_allclose(weights, ease(past, np.sort(most), 5.0), rtol=1e-3, atol=1e-6)


def test_of_each_item_the_largest_weights_are_kept(past: Past, monkeypatch):
    monkeypatch.setattr(linear, "NUM_NEIGHBOURS", 4)
    weights = Linear(5.0).fit(past).weights.toarray()
    expected = np.abs(ease(past, np.flatnonzero(past.num_events), 5.0))
    assert ((weights != 0).sum(1) <= 4).all()
    np.testing.assert_allclose(np.sort(np.abs(weights), 1)[:, -4:], np.sort(expected, 1)[:, -4:], rtol=1e-3, atol=1e-6)


def test_there_is_no_setting_without_room_for_items(past: Past):
    assert Linear.settings(past) and not Linear.settings(replace(past, max_linear_items=0))
