"""Every function of selection against its definition, user by user."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from ensemble.selection import NO_ITEM, fill, top_k

NUM_ITEMS = 8
rows = st.lists(st.integers(NO_ITEM, NUM_ITEMS - 1), max_size=10)
"""One user's item rows: any length, with empty slots and repeats."""
distinct_rows = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=NUM_ITEMS, unique=True).flatmap(
    lambda items: st.integers(0, 3).flatmap(lambda gaps: st.permutations([*items, *[NO_ITEM] * gaps]))
)
"""One user's candidates: no repeats, empty slots anywhere."""
scores = st.sampled_from([-np.inf, -1.5, -0.0, 0.0, 0.25, 0.25, 7.0, np.inf, np.nan])


def users(*columns):
    """One to four users, each with a value of every column."""
    return st.lists(st.tuples(*columns), min_size=1, max_size=4)


def matrix(lists):
    """Lists of item rows as one array, padded with NO_ITEM."""
    padded = np.full((len(lists), max(map(len, lists))), NO_ITEM, dtype=np.int64)
    for place, items in zip(padded, lists, strict=True):
        place[: len(items)] = items
    return padded


def front(lists):
    """As `matrix`, without empty slots before an item."""
    return matrix([[item for item in items if item != NO_ITEM] for items in lists])


def items_of(row):
    return [item for item in row.tolist() if item != NO_ITEM]


@given(users(distinct_rows, rows, st.integers(0, NUM_ITEMS + 2)), st.permutations(range(NUM_ITEMS)))
def test_fill_appends_the_best_allowed_items_until_the_user_has_enough(drawn, ranking):
    lists, forbidden, wanted = zip(*drawn, strict=True)
    row_BK = front(lists)
    filled_BK = fill(row_BK, np.array(wanted), np.array(ranking), matrix(forbidden))
    for row, filled, banned, number in zip(row_BK, filled_BK, forbidden, wanted, strict=True):
        there = items_of(row)
        free = [item for item in ranking if item not in there and item not in banned]
        expected = there + free[: max(number - len(there), 0)]
        assert filled.tolist() == expected + [NO_ITEM] * (len(filled) - len(expected))


@given(users(distinct_rows, st.lists(scores, min_size=11, max_size=11), st.integers(0, NUM_ITEMS + 3)))
def test_top_k_is_the_sorted_prefix_and_pads_what_is_missing(drawn):
    lists, score_lists, wanted = zip(*drawn, strict=True)
    row_BK = matrix(lists)
    score_BK = np.array(score_lists, dtype=np.float32)[:, : row_BK.shape[1]]
    slate_BK, slate_score_BK = top_k(row_BK, score_BK, np.array(wanted))
    assert slate_BK.shape == slate_score_BK.shape == (len(drawn), max(wanted)) and slate_score_BK.dtype == np.float32
    for row, score, slate, slate_score, k in zip(row_BK, score_BK, slate_BK, slate_score_BK, wanted, strict=True):
        score_of = {item: value for item, value in zip(row.tolist(), score, strict=True) if item != NO_ITEM}
        best = sorted(score_of, key=lambda item, s=score_of: (np.isnan(s[item]), -np.nan_to_num(s[item], nan=0), item))
        missing = max(wanted) - len(best[:k])
        assert slate.tolist() == best[:k] + [NO_ITEM] * missing
        expected = np.array([score_of[item] for item in best[:k]] + [-np.inf] * missing, dtype=np.float32)
        np.testing.assert_array_equal(slate_score, expected)


@given(users(distinct_rows, rows, st.lists(scores, min_size=11, max_size=11), st.integers(0, NUM_ITEMS + 2)))
def test_a_user_gets_the_same_alone_and_among_others(drawn):
    lists, forbidden, score_lists, wanted = zip(*drawn, strict=True)
    row_BK, front_BK, forbidden_BS, wanted_B = matrix(lists), front(lists), matrix(forbidden), np.array(wanted)
    score_BK = np.array(score_lists, dtype=np.float32)[:, : row_BK.shape[1]]
    ranking = np.arange(NUM_ITEMS)

    def chain(b):
        filled_BK = fill(front_BK[b], wanted_B[b], ranking, forbidden_BS[b])
        return items_of(filled_BK[0]), items_of(top_k(row_BK[b], score_BK[b], wanted_B[b])[0][0])

    for user in range(len(drawn)):
        others_behind = [user, *(other for other in range(len(drawn)) if other != user)]
        assert chain([user]) == chain(others_behind)
