"""Repeat purchase against its formula."""

from dataclasses import replace

import numpy as np
import pytest

from retrieval.sources import Past, RepeatPurchase, Users

NO_ITEM = -1


@pytest.mark.parametrize("decay", [0.9, 0.5, 1.0])
def test_recency_and_frequency_add_up(past: Past, users: Users, assert_best, decay: float):
    score_BI = np.full((len(users), past.num_items), -np.inf)
    for user, history in enumerate(users.history_BN.tolist()):
        for item in set(history) - {NO_ITEM}:
            score_BI[user, item] = sum(decay**place for place, one in enumerate(history) if one == item)
    assert_best(RepeatPurchase(decay).fit(past).propose(users, 8), score_BI, users)


def test_it_has_no_settings_where_nobody_is_shown_again_what_they_had(past: Past):
    assert RepeatPurchase.settings(past)
    assert not RepeatPurchase.settings(replace(past, may_repeat=False))
