"""Similar content against dense cosines."""

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from features.item_content import ItemContent, content_vectors, one_hot, tf_idf
from retrieval.sources import Past, SimilarContent, Users, similar_content

NO_ITEM = -1


def cosines(content: ItemContent, text_weight: float, rarity: float) -> np.ndarray:
    """[I, I] float64, 0 on the diagonal."""
    vectors = content_vectors(content, text_weight, rarity).toarray().astype(np.float64)
    length = np.linalg.norm(vectors, axis=1, keepdims=True)
    unit = np.divide(vectors, length, out=np.zeros_like(vectors), where=length > 0)
    return unit @ unit.T * (1 - np.eye(len(unit)))


def scores(cosine_II: np.ndarray, users: Users, decay: float) -> np.ndarray:
    score_BI = np.zeros((len(users), len(cosine_II)))
    for user, history in enumerate(users.history_BN.tolist()):
        for place, item in enumerate(history):
            if item != NO_ITEM:
                score_BI[user] += decay**place * cosine_II[item]
    return np.where(score_BI > 1e-9, score_BI, -np.inf)


@pytest.mark.parametrize("setting", [(0.5, 1.0, 0.9), (0.0, 2.0, 1.0), (1.0, 1.0, 0.5)])
def test_it_sums_the_cosines_with_what_the_user_had(past: Past, users: Users, assert_best, setting):
    text_weight, rarity, decay = setting
    source = SimilarContent(text_weight, rarity, decay).fit(past)
    expected = scores(cosines(past.content, text_weight, rarity), users, decay)
    for k in (5, 30):
        assert_best(source.propose(users, k), expected, users)


def test_items_that_nobody_had_are_found_by_their_content(past: Past, users: Users):
    found = SimilarContent(0.5).fit(past).propose(users, past.num_items).row_BK
    assert np.isin(np.flatnonzero(past.num_events == 0), found).all()


def test_the_strongest_neighbours_are_kept_and_found_in_blocks(past: Past, monkeypatch):
    monkeypatch.setattr(similar_content, "NUM_NEIGHBOURS", 4)
    monkeypatch.setattr(similar_content, "_BLOCK", 3)
    found = SimilarContent(0.5).fit(past).similarity.toarray()
    expected = np.where((past.num_events > 0)[:, None], cosines(past.content, 0.5, 1.0), 0.0)
    assert ((found > 0).sum(1) <= 4).all()
    np.testing.assert_allclose(np.sort(found, 1)[:, -4:], np.sort(expected, 1)[:, -4:], rtol=1e-4, atol=1e-6)


def test_a_value_that_too_many_items_share_makes_no_neighbours(monkeypatch):
    monkeypatch.setattr(similar_content, "MAX_SHARED", 2)
    common, rare = one_hot(pa.array([0, 0, 0, 0])), one_hot(pa.array([0, 1, 1, 2]))
    every = np.arange(4)
    past = Past(every * 0, every, every, 1, 4, {}, content=ItemContent({"common": common, "rare": rare}))
    similarity = SimilarContent(0.0).fit(past).similarity.toarray()
    assert np.argwhere(similarity > 0).tolist() == [[1, 2], [2, 1]]


@pytest.mark.parametrize(
    ("content", "weights"),
    [
        (ItemContent({"colour": one_hot(pa.array([0, 1]))}, tf_idf(["a word", "a word"])), {0.5, 0.2}),
        (ItemContent({"colour": one_hot(pa.array([0, 1]))}), {0.0}),
        (ItemContent({}, tf_idf(["a word", "a word"])), {1.0}),
        (ItemContent({}, None), set()),
        (None, set()),
    ],
    ids=["both", "attributes", "text", "texts without a word", "none"],
)
def test_the_settings_follow_what_the_catalogue_has(past: Past, content, weights):
    settings = SimilarContent.settings(replace(past, content=content))
    assert {one.text_weight for one in settings} == weights
    every = np.arange(2)
    for one in settings:
        one.fit(Past(every * 0, every, every, 1, 2, {}, content=content))


def test_an_item_of_which_nothing_is_known_is_like_no_other():
    every = np.arange(3)
    content = ItemContent({"colour": one_hot(pa.array([7, None, 7]))}, tf_idf(["a red hat", "", "a red hat"]))
    past = Past(every * 0, every, every, 1, 3, {}, content=content)
    asked = Users({}, every[:, None], np.full((3, 1), NO_ITEM), np.empty((3, 0), np.float32))
    found = SimilarContent(0.5).fit(past).propose(asked, 2)
    assert found.row_BK.tolist() == [[2, NO_ITEM], [NO_ITEM, NO_ITEM], [0, NO_ITEM]]
    np.testing.assert_allclose(found.score_BK[[0, 2], 0], 1, rtol=1e-5)
