"""Category popularity against its formula written as loops."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.item_content import ItemContent, multi_hot, one_hot
from retrieval.sources import CategoryPopularity, Past, Users, category_popularity

NO_ITEM = -1
DAY_SECONDS = 86_400


def scores_by_hand(past: Past, users: Users, attribute: str, half_life_days: float, prior: float) -> np.ndarray:
    """[B, I] float64; -inf for an item that nobody had."""
    has_IV = past.content.attributes[attribute].toarray()
    values_of = [np.flatnonzero(has_V) for has_V in has_IV]
    popularity_I, popularity_V = np.zeros(past.num_items), np.zeros(has_IV.shape[1])
    for item, time in zip(past.item_row, past.timestamp, strict=True):
        weight = 2.0 ** (-(past.timestamp[-1] - time) / (half_life_days * DAY_SECONDS))
        popularity_I[item] += weight
        for value in values_of[item]:
            popularity_V[value] += weight / len(values_of[item])
    score_BI = np.full((len(users), past.num_items), -np.inf)
    for user, history in enumerate(users.history_BN):
        taste_V = prior * popularity_V / popularity_V.sum()
        for item in history[history != NO_ITEM]:
            for value in values_of[item]:
                taste_V[value] += 1 / len(values_of[item])
        for item in np.flatnonzero(popularity_I):
            parts = [taste_V[value] * popularity_I[item] / popularity_V[value] for value in values_of[item]]
            score_BI[user, item] = sum(parts) / max(len(parts), 1)
    return score_BI


@pytest.fixture(scope="module")
def tagged(past: Past) -> Past:
    """The items have a colour, or none, and up to three tags."""
    random = np.random.default_rng(7)
    colour = [None if value == 4 else value for value in random.integers(0, 5, past.num_items).tolist()]
    tags = [random.choice(4, random.integers(0, 4), replace=False).tolist() for _ in range(past.num_items)]
    attributes = {"colour": one_hot(pa.array(colour)), "tags": multi_hot(pa.array(tags, pa.list_(pa.int64())))}
    return replace(past, content=ItemContent(attributes))


@pytest.mark.parametrize("attribute", ["colour", "tags"])
@pytest.mark.parametrize(("half_life_days", "prior"), [(7.0, 10.0), (60.0, 1.0)])
def test_it_shares_each_users_taste_among_the_items(tagged, users, assert_best, attribute, half_life_days, prior):
    source = CategoryPopularity(half_life_days, attribute, prior).fit(tagged)
    expected = scores_by_hand(tagged, users, attribute, half_life_days, prior)
    expected[expected == 0] = 0.0
    for k in (4, 40):
        assert_best(source.propose(users, k), expected, users)


def test_who_likes_a_category_gets_what_sells_in_it():
    """Items 0 and 1 are red, 2 and 3 blue; red sells best, and 3 sells better than 2."""
    content = ItemContent({"colour": one_hot(pa.array(["red", "red", "blue", "blue"]))})
    item = np.array([0] * 6 + [1] * 4 + [2] + [3] * 3)
    past = Past(np.arange(14), item, np.arange(14), 14, 4, {}, content=content)
    asked = Users({}, np.array([[NO_ITEM], [2]]), np.array([[NO_ITEM], [2]]), np.empty((2, 0), np.float32))
    found = CategoryPopularity(1_000.0, "colour", prior=1.0).fit(past).propose(asked, 4)
    assert found.row_BK.tolist() == [[0, 1, 3, 2], [3, 0, 1, NO_ITEM]]


def test_only_the_most_popular_items_are_proposed(tagged: Past, users: Users, monkeypatch):
    monkeypatch.setattr(category_popularity, "NUM_POPULAR", 5)
    count = np.bincount(tagged.item_row, tagged.weight(7.0), tagged.num_items)
    found = CategoryPopularity(7.0, "tags").fit(tagged).propose(users, 30).row_BK
    assert set(found[found != NO_ITEM].tolist()) <= set(np.argsort(-count)[:5].tolist())


def test_the_settings_try_every_attribute_there_is(tagged: Past):
    assert {one.attribute for one in CategoryPopularity.settings(tagged)} == {"colour", "tags"}
    for content in (None, ItemContent({})):
        assert not CategoryPopularity.settings(replace(tagged, content=content))
