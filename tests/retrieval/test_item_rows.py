"""Item rows of encoded ids, and lists of different lengths side by side."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from features.schema import FIRST_KNOWN, UNSEEN
from retrieval.item_rows import NO_ITEM, ItemRows, padded_lists


def test_every_known_id_names_its_row():
    item_id_I = FIRST_KNOWN + np.array([4, 0, 9, 2])
    assert ItemRows(item_id_I).of_ids(item_id_I[None]).tolist() == [[0, 1, 2, 3]]


def test_padding_the_unseen_and_ids_that_came_later_name_no_row():
    item_id_I = np.array([FIRST_KNOWN, UNSEEN, UNSEEN, FIRST_KNOWN + 1])
    asked = np.array([[0, UNSEEN, FIRST_KNOWN + 1], [FIRST_KNOWN + 2, 10**9, -1], [FIRST_KNOWN, 0, 0]])
    assert ItemRows(item_id_I).of_ids(asked).tolist() == [[NO_ITEM, NO_ITEM, 3], [NO_ITEM] * 3, [0, NO_ITEM, NO_ITEM]]


def test_a_catalogue_of_which_nothing_was_seen_has_no_known_row():
    for item_id_I in (np.full(3, UNSEEN), np.empty(0, np.int64)):
        assert (ItemRows(item_id_I).of_ids(np.arange(9)[None]) == NO_ITEM).all()


@given(st.lists(st.lists(st.integers(0, 50), max_size=5), max_size=6))
def test_lists_are_padded_behind_and_keep_their_order(lists):
    list_of = np.array([place for place, items in enumerate(lists) for _ in items], np.int64)
    found = padded_lists(list_of, np.array([item for items in lists for item in items], np.int64), len(lists))
    width = max(map(len, lists), default=0)
    assert found.shape == (len(lists), width) and found.dtype == np.int64
    assert found.tolist() == [items + [NO_ITEM] * (width - len(items)) for items in lists]
