"""The merge against its rule, and its weights against the likelihood that they maximise."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval import merge as merging
from retrieval.merge import L2, OFFSET, Merge, fitted_weights, side_by_side
from retrieval.metrics import RelevantItems, recall_at_k
from retrieval.sources import Proposals

NO_ITEM = -1
NUM_ITEMS, WIDTH = 12, 6
lists = st.lists(st.integers(0, NUM_ITEMS - 1), max_size=WIDTH, unique=True)
"""What one source proposes to one user."""
shares = st.sampled_from([0.0, 0.02, 0.1, 0.25, 1 / 3, 0.5, 0.9])


@st.composite
def asked(draw):
    """What some sources propose to some users, and a merge of them."""
    num_sources = draw(st.integers(1, 4))
    proposed = draw(st.lists(st.lists(lists, min_size=num_sources, max_size=num_sources), min_size=1, max_size=3))
    weights = draw(st.tuples(*[st.sampled_from([0.0, 0.5, 1.0, 2.5])] * num_sources))
    reserved = draw(st.none() | st.integers(0, num_sources - 1))
    return array(proposed), Merge(weights, reserved, draw(shares))


def array(proposed) -> np.ndarray:
    """[B, S, WIDTH] of lists."""
    padded = np.full((len(proposed), len(proposed[0]), WIDTH), NO_ITEM)
    for user, sources in enumerate(proposed):
        for source, items in enumerate(sources):
            padded[user, source, : len(items)] = items
    return padded


def proposals_of(proposed) -> list[Proposals]:
    """Of each source, from lists [B][S]."""
    return [Proposals(row_BQ, np.zeros(row_BQ.shape, np.float32)) for row_BQ in array(proposed).swapaxes(0, 1)]


def items_of(row) -> list[int]:
    return [item for item in row.tolist() if item != NO_ITEM]


def test_the_score_is_the_weighted_sum_of_reciprocal_ranks():
    merged = Merge((1.0, 0.5))(array([[[7, 3, 5], [5, 7]]]), 5)
    score = {7: 1 + 0.5 * 60 / 61, 3: 60 / 61, 5: 60 / 62 + 0.5}
    assert merged.row_BK.tolist() == [[7, 5, 3, NO_ITEM, NO_ITEM]]
    np.testing.assert_allclose(merged.score_BK, [[score[7], score[5], score[3], 0, 0]], rtol=1e-6)
    said = [[1, 60 / 61], [60 / 62, 1], [60 / 61, 0], [0, 0], [0, 0]]
    np.testing.assert_allclose(merged.source_BKS, [said], rtol=1e-6)


def test_equal_scores_come_by_item_row():
    assert Merge((1.0, 1.0))(array([[[9, 4], [2, 6]]]), 4).row_BK.tolist() == [[2, 9, 4, 6]]


@given(asked())
def test_no_candidate_is_invented_lost_or_repeated(drawn):
    proposed_BSQ, merge = drawn
    merged = merge(proposed_BSQ, NUM_ITEMS)
    for row, proposed in zip(merged.row_BK, proposed_BSQ, strict=True):
        assert sorted(items_of(row)) == sorted(set(items_of(proposed.ravel())))
        assert (row[len(items_of(row)) :] == NO_ITEM).all()


@given(asked())
def test_every_candidate_carries_its_rank_at_every_source_and_the_score_made_of_them(drawn):
    proposed_BSQ, merge = drawn
    merged = merge(proposed_BSQ, NUM_ITEMS)
    assert merged.score_BK.dtype == merged.source_BKS.dtype == np.float32
    for user, row in enumerate(merged.row_BK.tolist()):
        for place, item in enumerate(row):
            ranks = [items_of(one).index(item) if item in items_of(one) else None for one in proposed_BSQ[user]]
            said = [0.0 if rank is None or item == NO_ITEM else OFFSET / (OFFSET + rank) for rank in ranks]
            np.testing.assert_allclose(merged.source_BKS[user, place], said, rtol=1e-6)
            np.testing.assert_allclose(merged.score_BK[user, place], np.dot(said, merge.weights), rtol=1e-5)


@given(asked())
def test_without_a_share_the_highest_score_comes_first(drawn):
    proposed_BSQ, merge = drawn
    merged = Merge(merge.weights)(proposed_BSQ, NUM_ITEMS)
    for row, score in zip(merged.row_BK, merged.score_BK, strict=True):
        found = [(-value, item) for value, item in zip(score.tolist(), row.tolist(), strict=True) if item != NO_ITEM]
        assert found == sorted(found)


@given(asked(), st.integers(0, NUM_ITEMS + 3))
def test_fewer_candidates_are_the_first_of_more(drawn, num: int):
    proposed_BSQ, merge = drawn
    whole, found = merge(proposed_BSQ, NUM_ITEMS + 3), merge(proposed_BSQ, num)
    np.testing.assert_array_equal(found.row_BK, whole.row_BK[:, :num])
    np.testing.assert_array_equal(found.score_BK, whole.score_BK[:, :num])
    np.testing.assert_array_equal(found.source_BKS, whole.source_BKS[:, :num])


def test_reserved_items_move_up_to_the_last_place_that_keeps_their_share():
    proposed_BSQ = np.array([[list(range(10)), [10, 11, 12, 13, *[NO_ITEM] * 6]]])
    merged = Merge((1.0, 0.0), reserved=1, share=0.25)(proposed_BSQ, 14)
    assert merged.row_BK.tolist() == [[0, 1, 2, 10, 3, 4, 5, 11, 6, 7, 8, 12, 9, 13]]


@settings(max_examples=500)
@given(asked())
def test_the_reserved_source_has_its_share_at_every_length_while_it_has_items(drawn):
    proposed_BSQ, merge = drawn
    reserved = 0 if merge.reserved is None else merge.reserved
    merge = Merge(merge.weights, reserved, merge.share)
    for row, proposed in zip(merge(proposed_BSQ, NUM_ITEMS).row_BK, proposed_BSQ, strict=True):
        own = set(items_of(proposed[reserved]))
        for num in range(len(items_of(row)) + 1):
            least = min(math.floor(Fraction(merge.share).limit_denominator(1_000) * num), len(own))
            assert len(own & set(row[:num].tolist())) >= least


@given(asked())
def test_the_share_changes_no_order_among_the_reserved_nor_among_the_others(drawn):
    proposed_BSQ, merge = drawn
    plain = Merge(merge.weights)(proposed_BSQ, NUM_ITEMS).row_BK
    for row, before, proposed in zip(merge(proposed_BSQ, NUM_ITEMS).row_BK, plain, proposed_BSQ, strict=True):
        own = set() if merge.reserved is None else set(items_of(proposed[merge.reserved]))
        for kind in (own, set(range(NUM_ITEMS)) - own):
            assert [item for item in items_of(row) if item in kind] == [i for i in items_of(before) if i in kind]


@given(asked())
def test_a_user_gets_the_same_alone_and_among_others(drawn):
    proposed_BSQ, merge = drawn
    together = merge(proposed_BSQ, 9)
    wider_BSQ = np.pad(proposed_BSQ, ((0, 0), (0, 0), (0, 4)), constant_values=NO_ITEM)
    for user in range(len(proposed_BSQ)):
        alone = merge(wider_BSQ[[user]], 9)
        np.testing.assert_array_equal(alone.row_BK[0], together.row_BK[user])
        np.testing.assert_array_equal(alone.score_BK[0], together.score_BK[user])


def test_nobody_asking_is_no_error():
    assert Merge((1.0, 1.0))(np.empty((0, 2, 5), np.int64), 3).row_BK.shape == (0, 3)


def test_side_by_side_pads_the_shorter_quotas():
    found = side_by_side([Proposals.nothing(2, 1), Proposals(np.array([[1, 2], [3, NO_ITEM]]), np.zeros((2, 2)))])
    assert found.tolist() == [[[NO_ITEM, NO_ITEM], [1, 2]], [[NO_ITEM, NO_ITEM], [3, NO_ITEM]]]


def made(num_users: int = 60, num_items: int = 100, quota: int = 20):
    """One source has what the user took among its first, one proposes at random. Lists [B][S], and what was taken."""
    random = np.random.default_rng(0)
    proposed, user, item = [], [], []
    for one in range(num_users):
        right = random.choice(num_items, quota, replace=False)
        taken = random.choice(right[:5], 2, replace=False)
        proposed.append([random.choice(num_items, quota, replace=False), right])
        user, item = [*user, one, one], [*item, *taken]
    proposals = [
        Proposals(np.array([row[source] for row in proposed]), np.zeros((num_users, quota))) for source in (0, 1)
    ]
    return proposals, RelevantItems.from_pairs(np.array(user), np.array(item), num_users)


def test_the_source_that_is_right_gets_the_weight_and_the_merge_finds_as_much():
    proposals, relevant = made()
    weights = fitted_weights(proposals, relevant)
    assert weights[1] > 5 * weights[0] and min(weights) >= 0
    for k in (3, 10, 20):
        merged = Merge(weights)(side_by_side(proposals), k).row_BK
        alone = max(np.nanmean(recall_at_k(one.row_BK, relevant, k)) for one in proposals)
        assert np.nanmean(recall_at_k(merged, relevant, k)) >= alone


def test_two_half_right_sources_are_better_together():
    """Each of them has the first item of every second user."""
    random = np.random.default_rng(1)
    proposed = [[random.choice(50, WIDTH, replace=False).tolist() for _ in range(2)] for _ in range(80)]
    taken = [row[user % 2][0] for user, row in enumerate(proposed)]
    relevant = RelevantItems.from_pairs(np.arange(80), np.array(taken), 80)
    proposals = proposals_of(proposed)
    weights = fitted_weights(proposals, relevant)
    merged = Merge(weights)(side_by_side(proposals), 3).row_BK
    assert np.mean(recall_at_k(merged, relevant, 3)) > max(
        np.mean(recall_at_k(one.row_BK, relevant, 3)) for one in proposals
    )
    assert 0.5 < weights[0] / weights[1] < 2


def test_a_source_that_is_always_wrong_is_ignored_and_not_held_against_its_items():
    proposals, relevant = made()
    never_taken = Proposals(proposals[1].row_BK + 1_000, proposals[1].score_BK)
    assert fitted_weights([never_taken, proposals[1]], relevant)[0] == 0


@pytest.mark.parametrize("proposed", [[[[1, 2], [3]], [[4], []]], [[[], []], [[], []]]], ids=["others", "nothing"])
def test_all_weights_are_one_where_nobody_took_a_candidate(proposed):
    relevant = RelevantItems.from_pairs(np.array([0, 1]), np.array([9, 8]), 2)
    assert fitted_weights(proposals_of(proposed), relevant) == (1.0, 1.0)


@pytest.fixture
def likelihood(monkeypatch):
    """The loss that the fit minimises with its gradient, the proposals and what was taken."""
    proposed = [[[4, 2, 7], [2, 9]], [[1], [1, 3, 5]], [[6, 8], [0, 2]], [[], [5, 4]]]
    taken = ([0, 0, 1, 2, 3, 3], [2, 9, 5, 11, 4, 5])  # nobody proposed 11 to user 2
    caught = []

    def catch(loss, start, **arguments):
        caught.append(loss)
        return minimize(loss, start, **arguments)

    minimize = merging.minimize
    monkeypatch.setattr(merging, "minimize", catch)
    weights = fitted_weights(proposals_of(proposed), RelevantItems.from_pairs(*map(np.array, taken), 4))
    return caught[0], weights, proposed, list(zip(*taken, strict=True))


def loss_by_hand(weight, proposed, taken) -> float:
    """Weights in deviations of the reciprocal ranks, over the distinct pairs of users who took a candidate."""
    said = {
        (user, item): [OFFSET / (OFFSET + one.index(item)) if item in one else 0.0 for one in sources]
        for user, sources in enumerate(proposed)
        for item in sorted({item for one in sources for item in one})
    }
    hits = {user: [item for other, item in taken if other == user and (user, item) in said] for user in range(4)}
    useful = {pair: values for pair, values in said.items() if hits[pair[0]]}
    deviation = np.std(list(useful.values()), axis=0)
    loss = L2 / 2 * float(np.dot(weight, weight))
    for user in {user for user, _ in useful}:
        exponential = {item: np.exp(np.dot(weight, v / deviation)) for (u, item), v in useful.items() if u == user}
        for item in hits[user]:
            loss -= np.log(exponential[item] / sum(exponential.values())) / len(hits[user])
    return loss


@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.0, 0.0], [0.3, 2.0], [5.0, 0.1]])
def test_the_loss_is_the_conditional_logit_in_which_every_user_counts_once(likelihood, weight):
    loss, _, proposed, taken = likelihood
    assert loss(np.array(weight))[0] == pytest.approx(loss_by_hand(weight, proposed, taken), rel=1e-9)


@pytest.mark.parametrize("weight", [[1.0, 1.0], [0.3, 2.0], [5.0, 0.1]])
def test_its_gradient_is_that_of_finite_differences(likelihood, weight):
    loss, step = likelihood[0], 1e-6
    for place in range(2):
        up, down = np.array(weight), np.array(weight)
        up[place] += step
        down[place] -= step
        numeric = (loss(up)[0] - loss(down)[0]) / (2 * step)
        assert loss(np.array(weight))[1][place] == pytest.approx(numeric, rel=1e-5, abs=1e-7)


def test_no_other_weights_are_more_likely(likelihood):
    loss, weights, proposed, _ = likelihood
    said = np.array(
        [
            [OFFSET / (OFFSET + one.index(item)) if item in one else 0.0 for one in sources]
            for user, sources in enumerate(proposed)
            if user != 2  # who took no candidate
            for item in sorted({item for one in sources for item in one})
        ]
    )
    best = loss(np.array(weights) * said.std(axis=0))[0]
    for first in np.linspace(0, 4, 41):
        for second in np.linspace(0, 4, 41):
            assert best <= loss(np.array([first, second]))[0] + 1e-6
