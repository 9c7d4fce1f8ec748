"""Recent popularity against naive Bayes written as loops."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval.sources import Past, RecentPopularity, Users, recent_popularity

NO_ITEM = -1
DAY_SECONDS = 86_400


def activity(num_events: int) -> str:
    return next(name for least, name in ((20, "much"), (5, "more"), (1, "some"), (0, "new")) if num_events >= least)


def traits(past: Past, user: int, num_events: int) -> dict[str, object]:
    """Segment of a user in each trait, at a time when the user had num_events interactions."""
    age = past.users["user_age"]
    fifth = int((age[user] >= np.quantile(age, [0.2, 0.4, 0.6, 0.8])).sum())
    return {"activity": activity(num_events), "club": past.users["user_club"][user], "age": fifth}


def scores_by_hand(past: Past, users: Users, half_life_days: float, strength: float, shrinkage: float) -> np.ndarray:
    """[B, I] float64; -inf for an item that nobody had."""
    total, total_of, count_of = np.zeros(past.num_items), {}, {}
    had = np.zeros(past.num_users, int)
    for user, item, time in zip(past.user_row, past.item_row, past.timestamp, strict=True):
        weight = 2.0 ** (-(past.timestamp[-1] - time) / (half_life_days * DAY_SECONDS))
        total[item] += weight
        for trait in traits(past, user, had[user]).items():
            total_of[trait] = total_of.get(trait, 0.0) + weight
            count_of.setdefault(trait, np.zeros(past.num_items))[item] += weight
        had[user] += 1
    share = total / total.sum()
    score_BI = np.full((len(users), past.num_items), -np.inf)
    for user, history in enumerate(users.history_BN):
        for item in np.flatnonzero(share):
            score = np.log(share[item])
            for trait in traits(past, user, int((history != NO_ITEM).sum())).items():
                if trait in total_of:
                    count = count_of[trait][item] + shrinkage * share[item]
                    score += strength * np.log(count / (total_of[trait] + shrinkage) / share[item])
            score_BI[user, item] = score
    return score_BI


@pytest.mark.parametrize(("half_life_days", "strength", "shrinkage"), [(7.0, 1.0, 5.0), (60.0, 0.5, 1_000.0)])
def test_it_is_naive_bayes_over_the_segments(past, users, assert_best, half_life_days, strength, shrinkage):
    source = RecentPopularity(half_life_days, strength, shrinkage).fit(past)
    expected = scores_by_hand(past, users, half_life_days, strength, shrinkage)
    for k in (4, 30):
        assert_best(source.propose(users, k), expected, users)


def test_without_strength_everybody_gets_the_same_list(past: Past, users: Users, assert_best):
    source = RecentPopularity(7.0, 0.0).fit(past)
    assert_best(source.propose(users, 10), scores_by_hand(past, users, 7.0, 0.0, 1.0), users)
    free = replace(users, forbidden_BS=np.full((len(users), 1), NO_ITEM))
    assert (np.unique(source.propose(free, 10).row_BK, axis=0)).shape == (1, 10)


def test_a_short_half_life_forgets_yesterdays_favourite():
    """Item 0 sold nine times on the first day, item 1 twice on the last."""
    item = np.array([0] * 9 + [1] * 2)
    past = Past(np.arange(11), item, np.where(item == 0, 0, 30 * DAY_SECONDS), 11, 2, {})
    asked = Users({}, np.array([[NO_ITEM]]), np.array([[NO_ITEM]]), np.empty((1, 0), np.float32))
    assert RecentPopularity(2.0).fit(past).propose(asked, 2).row_BK.tolist() == [[1, 0]]
    assert RecentPopularity(1_000.0).fit(past).propose(asked, 2).row_BK.tolist() == [[0, 1]]


def test_a_segment_gets_what_it_departs_to():
    """Club 1 takes item 0, club 2 takes item 1; a club that the past does not have gets what everybody gets."""
    club = np.array([1] * 6 + [2] * 5 + [3])
    past = Past(np.arange(11), club[:11] - 1, np.arange(11), 12, 2, {"user_club": club})
    source = RecentPopularity(100.0, shrinkage=1.0).fit(past)
    asked = Users({"user_club": np.array([1, 2, 3, 60])}, np.full((4, 1), NO_ITEM), np.full((4, 1), NO_ITEM), club[:4])
    found = source.propose(asked, 2)
    assert found.row_BK.tolist() == [[0, 1], [1, 0], [0, 1], [0, 1]]
    np.testing.assert_allclose(found.score_BK[2], np.log([6 / 11, 5 / 11]), rtol=1e-4)
    np.testing.assert_array_equal(found.score_BK[3], found.score_BK[2])


def test_only_the_most_popular_items_are_proposed(past: Past, users: Users, monkeypatch):
    monkeypatch.setattr(recent_popularity, "NUM_POPULAR", 5)
    count = np.bincount(past.item_row, past.weight(7.0), past.num_items)
    found = RecentPopularity(7.0).fit(past).propose(users, past.num_items).row_BK
    assert set(found[found != NO_ITEM].tolist()) == set(np.argsort(-count)[:5].tolist())


def test_traits_that_tell_nothing_are_left_out(past: Past, monkeypatch):
    same, many = np.ones(past.num_users, int), np.arange(past.num_users)
    lists = np.ones((past.num_users, 2), int)
    more = replace(past, users={**past.users, "same": same, "many": many, "lists": lists})
    monkeypatch.setattr(recent_popularity, "MAX_SEGMENTS", past.num_users - 1)
    assert set(RecentPopularity(7.0).fit(more).departure) == {"activity", "user_club", "user_age"}


def test_items_of_equal_popularity_come_by_item_row():
    past = Past(np.arange(8), np.array([5, 1, 3, 1, 0, 5, 3, 0]), np.zeros(8, int), 8, 6, {})
    asked = Users({}, np.array([[NO_ITEM]]), np.array([[1]]), np.empty((1, 0), np.float32))
    assert RecentPopularity(7.0).fit(past).propose(asked, 4).row_BK.tolist() == [[0, 3, 5, NO_ITEM]]
