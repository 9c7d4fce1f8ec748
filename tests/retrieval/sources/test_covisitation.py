"""Co-visitation against a loop written from its formula."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval.sources import Covisitation, Past, Users, covisitation

NO_ITEM = -1
DAY_SECONDS = 86_400


def similarity_by_hand(past: Past, half_life_days: float, power: float, last_n: int = 100) -> np.ndarray:
    """[I, I] float64."""
    weight_UI = np.zeros((past.num_users, past.num_items))
    events = list(zip(past.user_row.tolist(), past.item_row.tolist(), past.timestamp.tolist(), strict=True))
    for user in range(past.num_users):
        for _, item, time in [event for event in events if event[0] == user][-last_n:]:
            age_days = (past.timestamp[-1] - time) / DAY_SECONDS
            weight_UI[user, item] += 2 ** (-age_days / (2 * half_life_days))
    similarity = np.zeros((past.num_items, past.num_items))
    square_I = (weight_UI**2).sum(0)
    for one in range(past.num_items):
        for other in range(past.num_items):
            both = weight_UI[:, one] @ weight_UI[:, other]
            if one != other and both:
                similarity[one, other] = both / (square_I[one] * square_I[other]) ** power
    return similarity


def scores_by_hand(similarity: np.ndarray, users: Users, decay: float) -> np.ndarray:
    score_BI = np.zeros((len(users), len(similarity)))
    for user, history in enumerate(users.history_BN.tolist()):
        for place, item in enumerate(history):
            if item != NO_ITEM:
                score_BI[user] += decay**place * similarity[item]
    return np.where(score_BI > 0, score_BI, -np.inf)


@pytest.mark.parametrize(("half_life_days", "power", "decay"), [(20.0, 0.3, 0.9), (5.0, 0.5, 0.7), (400.0, 0.0, 1.0)])
def test_it_proposes_what_the_formula_says(past: Past, users: Users, assert_best, half_life_days, power, decay):
    source = Covisitation(half_life_days, power, decay).fit(past)
    expected = scores_by_hand(similarity_by_hand(past, half_life_days, power), users, decay)
    for k in (3, 30):
        assert_best(source.propose(users, k), expected, users)


def test_of_a_long_history_only_the_latest_interactions_are_paired(past: Past, users: Users, assert_best, monkeypatch):
    monkeypatch.setattr(covisitation, "LAST_N", 5)
    source = Covisitation(20.0).fit(past)
    np.testing.assert_allclose(source.similarity.toarray(), similarity_by_hand(past, 20.0, 0.3, last_n=5), rtol=1e-5)
    short = replace(users, history_BN=users.history_BN[:, :5])
    expected = scores_by_hand(similarity_by_hand(past, 20.0, 0.3, last_n=5), short, 0.9)
    assert_best(source.propose(users, 10), expected, users)


def test_only_the_strongest_neighbours_are_kept(past: Past, monkeypatch):
    monkeypatch.setattr(covisitation, "NUM_NEIGHBOURS", 3)
    found = Covisitation(20.0).fit(past).similarity.toarray()
    expected = similarity_by_hand(past, 20.0, 0.3)
    assert ((found > 0).sum(1) <= 3).all()
    np.testing.assert_allclose(np.sort(found, axis=1)[:, -3:], np.sort(expected, axis=1)[:, -3:], rtol=1e-5)


def test_what_faded_loses_to_what_is_fresh():
    """Item 0 was had with item 1 long ago and with item 2 of late."""
    day = DAY_SECONDS
    past = Past(np.array([0, 0, 1, 1]), np.array([0, 1, 0, 2]), np.array([0, 1, 90 * day, 90 * day + 1]), 2, 3, {})
    asked = Users({}, np.array([[0]]), np.array([[NO_ITEM]]), np.empty((1, 0), np.float32))
    found = Covisitation(10.0, power=0.0).fit(past).propose(asked, 2)
    assert found.row_BK.tolist() == [[2, 1]]
    assert found.score_BK[0, 1] / found.score_BK[0, 0] == pytest.approx(2**-9, rel=1e-3)
