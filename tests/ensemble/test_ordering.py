"""Sampling, diversity and caps against their definitions."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.ordering import NO_GROUP, Items, gumbel, ordered, place_chances
from ensemble.selection import NO_ITEM, top_k

NUM_ITEMS, DIM = 12, 3
RANDOM = np.random.default_rng(0)
UNIT = RANDOM.normal(size=(NUM_ITEMS, DIM))
UNIT = (UNIT / np.linalg.norm(UNIT, axis=1, keepdims=True)).astype(np.float32)
scores = st.floats(-4, 4, width=32)
candidates = st.lists(
    st.tuples(st.integers(0, NUM_ITEMS - 1), scores), max_size=NUM_ITEMS, unique_by=lambda one: one[0]
)


def items(caps=(), groups=None, boost=None) -> Items:
    group_GI = np.zeros((len(caps), NUM_ITEMS), np.int64) if groups is None else np.array(groups, np.int64)
    boost_I = np.zeros(NUM_ITEMS, np.float32) if boost is None else np.array(boost, np.float32)
    return Items(boost_I, UNIT, group_GI.reshape(len(caps), NUM_ITEMS), np.array(caps, np.int64))


def slate(drawn, k, temperature=0.0, diversity=0.0, seed=1, user="anna", of=None):
    """Rows, propensities and lifted caps of one user."""
    row_BK = np.array([[row for row, _ in drawn]], np.int64).reshape(1, -1)
    score_BK = np.array([[score for _, score in drawn]], np.float32).reshape(1, -1)
    told = np.array([temperature], np.float32), np.array([diversity], np.float32)
    ids = np.array([user], dtype=object)
    found = ordered(row_BK, score_BK, np.array([k]), of or items(), *told, np.array([seed]), ids)
    chosen = found.place_Bk[0][found.place_Bk[0] >= 0]
    return row_BK[0][chosen].tolist(), found.propensity_Bk[0][: len(chosen)], int(found.num_lifted_B[0])


@given(candidates, st.integers(0, NUM_ITEMS + 2))
def test_without_chance_diversity_and_caps_it_is_the_best_scored(drawn, k):
    rows, propensities, lifted = slate(drawn, k)
    row_BK = np.array([[row for row, _ in drawn]], np.int64).reshape(1, -1)
    score_BK = np.array([[score for _, score in drawn]], np.float32).reshape(1, -1)
    best = top_k(row_BK, score_BK, np.array([k]))[0][0]
    assert rows == best[best != NO_ITEM].tolist() and (propensities == 1).all() and not lifted


@given(candidates, st.integers(0, NUM_ITEMS + 2), st.sampled_from([0, 0.1, 2]), st.sampled_from([0, 0.3, 1]))
def test_no_item_is_invented_or_repeated_and_everybody_gets_k(drawn, k, temperature, diversity):
    groups = np.arange(NUM_ITEMS) % 3
    rows, propensities, _ = slate(drawn, k, temperature, diversity, of=items((2,), [groups]))
    assert len(set(rows)) == len(rows) == min(k, len(drawn)) and set(rows) <= {row for row, _ in drawn}
    assert ((propensities > 0) & (propensities <= 1)).all()


@given(candidates, st.sampled_from([0.1, 0.5, 0.9, 1.0]))
def test_diversity_is_the_greedy_rule(drawn, diversity):
    rows, _, _ = slate(drawn, NUM_ITEMS, diversity=diversity)
    left, above, score_of = [row for row, _ in drawn], [], dict(drawn)
    reach = max(score_of.values(), default=0) - min(score_of.values(), default=0)

    def value(row):
        likeness = max((float(UNIT[row].astype(float) @ UNIT[one].astype(float)) for one in above), default=0.0)
        return (1 - np.float32(diversity)) * score_of[row] - np.float32(diversity) * reach * likeness

    for row in rows:
        assert value(row) >= max(map(value, left)) - 1e-5 * max(reach, 1)
        left.remove(row)
        above.append(row)


@given(candidates, st.integers(1, 3), st.lists(st.integers(-1, 2), min_size=NUM_ITEMS, max_size=NUM_ITEMS))
def test_caps_hold_until_nothing_else_is_left(drawn, cap, group):
    rows, _, lifted = slate(drawn, NUM_ITEMS, of=items((cap,), [group]))
    within, beyond = rows[: len(rows) - lifted], rows[len(rows) - lifted :]
    counts = Counter(group[row] for row in within if group[row] != NO_GROUP)
    assert all(count <= cap for count in counts.values())
    assert all(group[row] != NO_GROUP and counts[group[row]] == cap for row in beyond)
    score_of = dict(drawn)
    for part in (within, beyond):
        if cap >= NUM_ITEMS:
            assert part == sorted(part, key=lambda row: (-score_of[row], row))


def test_boosts_move_the_order():
    boost = np.zeros(NUM_ITEMS)
    boost[3] = 5
    assert slate([(1, 2.0), (3, 0.0), (2, 1.0)], 3, of=items(boost=boost))[0] == [3, 1, 2]


def test_what_is_no_number_comes_last():
    drawn = [(0, np.nan), (1, -np.inf), (2, 0.5), (3, np.inf), (4, -2.0)]
    assert slate(drawn, 5)[0] == [3, 2, 4, 0, 1]
    rows, propensities, _ = slate(drawn, 5, temperature=0.5)
    assert sorted(rows) == [0, 1, 2, 3, 4] and np.isfinite(propensities).all()


def plackett_luce(score_of, rows, temperature):
    """Probability of drawing these rows in this order."""
    left, probability = dict(score_of), 1.0
    for row in rows:
        weights = {one: math.exp(score / temperature) for one, score in left.items()}
        probability *= weights[row] / sum(weights.values())
        del left[row]
    return probability


@pytest.mark.parametrize("diversity", [0.0, 0.4])
def test_the_first_places_are_drawn_with_the_probabilities_that_the_propensities_say(diversity):
    drawn, num, temperature = [(0, 1.0), (4, 0.2), (7, -0.5), (9, 0.4)], 20_000, 0.7
    count, probability = Counter(), {}
    for seed in range(num):
        rows, propensities, _ = slate(drawn, 2, temperature, diversity, seed)
        count[tuple(rows)] += 1
        probability[tuple(rows)] = float(propensities.prod())
    pairs = list(itertools.permutations([0, 4, 7, 9], 2))
    assert set(count) == set(pairs) and sum(probability.values()) == pytest.approx(1, abs=1e-5)
    if not diversity:
        for pair in pairs:
            assert probability[pair] == pytest.approx(plackett_luce(dict(drawn), pair, temperature), rel=1e-5)
    chi_square = sum((count[pair] - num * probability[pair]) ** 2 / (num * probability[pair]) for pair in pairs)
    assert chi_square < 31.3  # 11 degrees of freedom, one in a thousand


def test_with_caps_the_propensities_are_those_of_what_was_open():
    drawn, group, num = [(0, 1.0), (1, 0.9), (2, 0.0)], [0, 0, *range(1, NUM_ITEMS - 1)], 20_000
    second = Counter()
    for seed in range(num):
        rows, propensities, lifted = slate(drawn, 2, 0.5, seed=seed, of=items((1,), [group]))
        assert lifted == 0 and not {0, 1} <= set(rows)
        if rows[0] in (0, 1):
            assert rows[1] == 2 and propensities[1] == 1
        else:
            second[rows[1]] += 1
            assert propensities[1] == pytest.approx(
                1 / (1 + math.exp((0.9 if rows[1] == 0 else 1.0) / 0.5 - (1.0 if rows[1] == 0 else 0.9) / 0.5)),
                rel=1e-5,
            )
    share = second[0] / sum(second.values())
    expected = 1 / (1 + math.exp(-0.2))
    assert abs(share - expected) < 4 * math.sqrt(expected * (1 - expected) / sum(second.values()))


@settings(max_examples=50)
@given(st.lists(candidates, min_size=1, max_size=5), st.sampled_from([0.0, 0.3]), st.integers(0, 2**62))
def test_a_user_gets_the_same_slate_alone_and_among_others(lists, diversity, seed):
    width = max(map(len, lists)) + 2
    row_BK, score_BK = np.full((len(lists), width), NO_ITEM), np.full((len(lists), width), -np.inf, np.float32)
    for user, drawn in enumerate(lists):
        row_BK[user, : len(drawn)] = [row for row, _ in drawn]
        score_BK[user, : len(drawn)] = [score for _, score in drawn]
    size = len(lists)
    users = np.array([f"user {user}" for user in range(size)], dtype=object)
    k_B = np.arange(size) + 2
    told = np.full(size, 0.5, np.float32), np.full(size, diversity, np.float32), np.full(size, seed)
    together = ordered(row_BK, score_BK, k_B, items(), *told, users)
    for user, drawn in enumerate(lists):
        rows, propensities, _ = slate(drawn, int(k_B[user]), 0.5, diversity, seed, users[user])
        places = together.place_Bk[user][together.place_Bk[user] >= 0]
        assert row_BK[user][places].tolist() == rows
        np.testing.assert_array_equal(together.propensity_Bk[user][: len(rows)], propensities)


def test_seeds_and_users_differ_and_the_same_are_the_same():
    shape = 2, 5
    np.testing.assert_array_equal(gumbel(7, "anna", shape), gumbel(7, "anna", shape))
    assert not np.intersect1d(gumbel(7, "anna", shape), gumbel(8, "anna", shape)).size
    assert not np.intersect1d(gumbel(7, "anna", shape), gumbel(7, "berta", shape)).size


@given(candidates, st.sampled_from([0.0, 0.1, 2]), st.sampled_from([0.0, 0.3, 1]))
def test_the_chances_of_a_slate_are_the_propensities_with_which_it_was_sampled(drawn, temperature, diversity):
    of = items((2,), [np.arange(NUM_ITEMS) % 3])
    rows, propensities, _ = slate(drawn, 4, temperature, diversity, of=of)
    chance_kK = chances(drawn, rows, temperature, diversity, of)
    place_of = {row: place for place, (row, _) in enumerate(drawn)}
    said = [chance_kK[place, place_of[row]] for place, row in enumerate(rows)]
    assert np.allclose(said, propensities, rtol=1e-5) and np.allclose(chance_kK.sum(1), 1)
    for place, row in enumerate(rows):  # nobody is shown twice
        assert (chance_kK[place + 1 :, place_of[row]] == 0).all()


def test_below_an_item_that_is_no_candidate_there_are_no_chances():
    chance_kK = chances([(3, 1.0), (5, 0.0), (7, 0.0)], [5, -1, 3], 1.0, 0.0, items())
    powers = np.exp([1.0, 0.0, 0.0])
    assert np.allclose(chance_kK[0], powers / powers.sum())
    assert np.allclose(chance_kK[1], [math.e / (math.e + 1), 0, 1 / (math.e + 1)]) and (chance_kK[2] == 0).all()


def chances(drawn, rows, temperature, diversity, of):
    """[k, K] of one user, given the rows in their order; -1 for an item that is not drawn."""
    place_of = {row: place for place, (row, _) in enumerate(drawn)}
    row_BK = np.array([[row for row, _ in drawn]], np.int64).reshape(1, -1)
    score_BK = np.array([[score for _, score in drawn]], np.float32).reshape(1, -1)
    given_Bk = np.array([[place_of.get(row, -1) for row in rows]], np.int64).reshape(1, -1)
    told = np.array([temperature], np.float32), np.array([diversity], np.float32)
    return place_chances(row_BK, score_BK, given_Bk, of, *told)[0]
