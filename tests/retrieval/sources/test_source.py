"""The past, the users and the proposals that all sources share."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import sparse

from retrieval.best_first import item_of, score_of, sort_key
from retrieval.sources import Past, Proposals, Users
from retrieval.sources.source import best_of_columns, best_of_rows, matrix_arrays, square_matrix

NO_ITEM = -1
NUM_ITEMS = 7
scores = st.lists(st.sampled_from([-1.0, 0.0, 0.25, 0.5, 0.5, 2.0]), min_size=NUM_ITEMS, max_size=NUM_ITEMS)


users_scores = st.lists(
    st.tuples(scores, st.lists(st.integers(NO_ITEM, NUM_ITEMS), max_size=4)), min_size=1, max_size=4
)
masks = st.none() | st.lists(st.booleans(), min_size=NUM_ITEMS, max_size=NUM_ITEMS)


def asking(forbidden_BS, allowed=None) -> Users:
    size = len(forbidden_BS)
    allowed_I = None if allowed is None else np.array(allowed)
    return Users({}, np.empty((size, 0), np.int64), forbidden_BS, np.empty((size, 0), np.float32), allowed_I)


@given(users_scores, st.integers(0, NUM_ITEMS + 2), masks)
def test_the_best_of_columns_are_the_allowed_ones_sorted(drawn, k, mask):
    score_BM = np.array([row for row, _ in drawn], np.float32)
    item_M = np.array([4, 0, 6, 2, 1, 5, 3])
    forbidden_BS = np.full((len(drawn), 4), NO_ITEM)
    for place, (_, forbidden) in zip(forbidden_BS, drawn, strict=True):
        place[: len(forbidden)] = forbidden
    found = best_of_columns(score_BM, item_M, asking(forbidden_BS, mask), k)
    for user, (score_M, forbidden) in enumerate(drawn):
        score_of = dict(zip(item_M.tolist(), score_M, strict=True))
        allowed = [item for item in score_of if item not in forbidden and (mask is None or mask[item])]
        best = sorted(allowed, key=lambda item, s=score_of: (-s[item], item))[:k]
        assert found.row_BK[user].tolist() == best + [NO_ITEM] * (k - len(best))
        assert found.score_BK[user].tolist() == [score_of[item] for item in best] + [-np.inf] * (k - len(best))


finite = st.floats(width=32, allow_nan=False)


@given(st.lists(st.tuples(finite, st.integers(0, 2**31 - 1)), min_size=2, max_size=2))
def test_a_sort_key_sorts_by_score_and_then_by_item_and_gives_both_back(pairs):
    keys = [sort_key(np.float32(score), item) for score, item in pairs]
    assert [(score_of(key), item_of(key)) for key in keys] == pairs
    assert (keys[0] < keys[1]) == ((-pairs[0][0], pairs[0][1]) < (-pairs[1][0], pairs[1][1]))


@given(users_scores, st.integers(0, NUM_ITEMS + 2), masks)
def test_the_best_of_rows_are_the_positive_allowed_ones_sorted(drawn, k, mask):
    score_BI = np.array([row for row, _ in drawn], np.float32)
    forbidden_BS = np.full((len(drawn), 4), NO_ITEM)
    for place, (_, forbidden) in zip(forbidden_BS, drawn, strict=True):
        place[: len(forbidden)] = forbidden
    found = best_of_rows(sparse.csr_matrix(score_BI), asking(forbidden_BS, mask), k)
    assert found.row_BK.shape == found.score_BK.shape == (len(drawn), k)
    for user, (score_I, forbidden) in enumerate(drawn):
        allowed = [item for item in range(NUM_ITEMS) if score_I[item] > 0 and item not in forbidden]
        allowed = [item for item in allowed if mask is None or mask[item]]
        best = sorted(allowed, key=lambda item, s=score_I: (-s[item], item))[:k]
        assert found.row_BK[user].tolist() == best + [NO_ITEM] * (k - len(best))
        assert found.score_BK[user].tolist() == [score_I[item] for item in best] + [-np.inf] * (k - len(best))


def test_padding_adds_empty_slots_behind():
    found = Proposals.padded(np.array([[4, 2]]), np.array([[1.5, 1.0]], np.float32), 4)
    assert found.row_BK.tolist() == [[4, 2, NO_ITEM, NO_ITEM]]
    assert found.score_BK.tolist() == [[1.5, 1.0, -np.inf, -np.inf]]
    assert found.score_BK.dtype == np.float32


def test_a_matrix_taken_apart_and_put_together_is_the_same():
    matrix = sparse.random(6, 6, 0.4, "csr", np.float32, random_state=0)
    assert (square_matrix(matrix_arrays(matrix)) != matrix).nnz == 0


def test_votes_fade_by_place_and_add_up_over_repeats():
    history_BN = np.array([[2, NO_ITEM, 0, 2], [1, NO_ITEM, NO_ITEM, NO_ITEM]])
    users = Users({}, history_BN, np.empty((2, 0), np.int64), np.empty((2, 0), np.float32))
    expected = [[0.25, 0, 1 + 0.125], [0, 1, 0]]
    np.testing.assert_allclose(users.votes(3, 4, 0.5).toarray(), expected)
    np.testing.assert_allclose(users.votes(3, 3, 0.5).toarray(), [[0.25, 0, 1], [0, 1, 0]])


def test_the_place_in_history_counts_what_the_user_had_before(past: Past):
    count = dict.fromkeys(range(past.num_users), 0)
    for user, place in zip(past.user_row.tolist(), past.place_in_history.tolist(), strict=True):
        assert place == count[user]
        count[user] += 1


def test_a_weight_halves_with_every_half_life_before_the_last_interaction():
    time = np.array([0, 86_400, 2 * 86_400])
    past = Past(np.zeros(3, int), np.zeros(3, int), time, 1, 1, {})
    np.testing.assert_allclose(past.weight(1.0), [0.25, 0.5, 1.0])
    assert past.span_days == pytest.approx(2.0, abs=1e-4)


def test_a_sample_keeps_whole_users(past: Past):
    assert past.of_some_users(len(past.user_row), 0) is past
    sample = past.of_some_users(200, 0)
    kept = np.isin(past.user_row, sample.user_row)
    np.testing.assert_array_equal(sample.item_row, past.item_row[kept])
    np.testing.assert_array_equal(sample.timestamp, past.timestamp[kept])
    assert 50 < len(sample.user_row) < 400
    np.testing.assert_array_equal(past.of_some_users(200, 0).user_row, sample.user_row)
    assert past.of_some_users(200, 1).user_row.tolist() != sample.user_row.tolist()
    assert sample.num_events.sum() == len(sample.user_row)


def test_an_empty_past_has_no_span_and_no_weights(past: Past):
    nothing = np.empty(0, np.int64)
    empty = replace(past, user_row=nothing, item_row=nothing, timestamp=nothing)
    assert empty.span_days == 0 and len(empty.weight(3.0)) == 0 and not empty.num_events.any()
