"""Estimators and intervals against their definitions, and against worlds whose truth is known."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.ope.coverage import coverage
from pipelines.ope.estimators import (
    ESTIMATORS,
    NO_LIMIT,
    EstimateError,
    Rounds,
    direct_method,
    doubly_robust,
    effective_sample_size,
    ips,
    shrunk_dr,
    snips,
    switch_dr,
)
from pipelines.ope.intervals import Spread, interval
from pipelines.ope.made_world import made_world
from pipelines.ope.reward_model import PRIOR_REWARDS, PRIOR_ROUNDS, folds, reward_tables

numbers = st.floats(0, 3, width=32)
rows = st.lists(st.tuples(numbers, numbers, numbers, numbers), min_size=2, max_size=20)


def rounds_of(drawn) -> Rounds:
    return Rounds(*np.array(drawn, np.float64).T)


def test_ips_is_what_one_computes_by_hand():
    rounds = Rounds(np.array([1.0, 0.0, 1.0]), np.array([0.5, 2.0, 3.0]), np.zeros(3), np.zeros(3))
    assert ips(rounds).mean() == pytest.approx((0.5 + 0 + 3) / 3)
    assert snips(rounds).mean() == pytest.approx(3.5 / 5.5)
    assert effective_sample_size(rounds.weight_N) == pytest.approx(5.5**2 / (0.25 + 4 + 9))


@given(rows)
def test_dr_is_ips_with_a_model_that_says_nothing_and_the_model_where_the_model_is_right(drawn):
    rounds = rounds_of(drawn)
    nothing = Rounds(rounds.reward_N, rounds.weight_N, 0 * rounds.model_N, 0 * rounds.direct_N)
    assert np.array_equal(doubly_robust(nothing), ips(nothing))
    right = Rounds(rounds.model_N, rounds.weight_N, rounds.model_N, rounds.direct_N)
    assert np.array_equal(doubly_robust(right), direct_method(right))


@given(rows)
def test_switch_and_shrinkage_go_from_the_model_to_dr(drawn):
    rounds = rounds_of(drawn)
    for estimator in (switch_dr, shrunk_dr):
        assert np.array_equal(estimator(rounds, NO_LIMIT), doubly_robust(rounds))
    assert np.allclose(shrunk_dr(rounds, 0), direct_method(rounds))
    some = rounds.weight_N > 0
    assert np.array_equal(switch_dr(rounds, 0)[some], direct_method(rounds)[some])


@given(rows, st.floats(-5, 5, width=32))
def test_snips_shifts_with_the_rewards_and_ips_does_not(drawn, shift):
    rounds = rounds_of(drawn)
    moved = Rounds(rounds.reward_N + shift, rounds.weight_N, rounds.model_N, rounds.direct_N)
    if rounds.weight_N.sum() < 1e-3:
        return
    assert snips(moved).mean() == pytest.approx(snips(rounds).mean() + shift, abs=1e-4)
    assert ips(moved).mean() == pytest.approx(ips(rounds).mean() + shift * rounds.weight_N.mean(), abs=1e-4)


def test_the_policy_of_the_log_earns_what_the_log_says():
    rng = np.random.default_rng(1)
    rounds = made_world(rng, distance=0).rounds(500, rng)
    for name in ("ips", "snips"):
        assert ESTIMATORS[name](rounds).mean() == pytest.approx(rounds.reward_N.mean())


def test_the_truth_of_a_made_world_is_what_its_policy_earns():
    rng = np.random.default_rng(2)
    world = made_world(rng, distance=2.0)
    own = type(world)(world.share_C, world.click_CI, world.evaluated_CI, world.evaluated_CI)
    assert own.rounds(400_000, rng).reward_N.mean() == pytest.approx(world.truth, abs=0.002)
    found = world.rounds(400_000, rng)
    for name in ("ips", "snips", "dr", "switch-dr", "shrunk-dr"):
        assert ESTIMATORS[name](found).mean() == pytest.approx(world.truth, abs=0.004)


def test_weights_that_are_no_ratios_are_refused():
    one = np.ones(2)
    with pytest.raises(EstimateError, match=r"weight_N must hold .* 1 that are not; a logged propensity of 0"):
        Rounds(one, np.array([1, np.inf]), one, one)
    with pytest.raises(EstimateError, match="no overlap"):
        snips(Rounds(one, 0 * one, one, one))


def test_an_interval_without_skewness_is_the_t_interval_and_groups_count_once():
    value_N = np.array([-1.0, 1.0] * 50)
    found = interval(0.0, Spread.of(value_N))
    assert found.high == pytest.approx(1.984217 * np.sqrt(100 / 99) / 10, rel=1e-5) and found.low == -found.high
    twice = interval(0.0, Spread.of(np.repeat(value_N, 3), np.repeat(np.arange(100), 3)))
    assert twice.high == pytest.approx(found.high)
    assert np.isnan(interval(1.0, Spread.of(np.ones(5))).low)


def test_an_interval_is_longer_on_the_side_of_the_tail():
    value_N = np.random.default_rng(3).exponential(size=200)
    found = interval(value_N.mean(), Spread.of(value_N))
    plain = interval(value_N.mean(), Spread.of(value_N), corrected=False)
    assert found.high > plain.high and found.low == plain.low
    mirrored = interval(-value_N.mean(), Spread.of(-value_N))
    assert mirrored.low == pytest.approx(-found.high) and mirrored.high == pytest.approx(-found.low)
    two = interval(value_N.mean(), Spread.of(value_N), Spread.of(10 * value_N))
    assert two.high - two.low > found.high - found.low


def test_no_round_is_foretold_by_a_table_that_has_seen_it():
    context_N, item_N, reward_N = np.array([0, 0, 1]), np.array([0, 1, 1]), np.array([1.0, 0.0, 1.0])
    fold_N = np.array([0, 1, 2])
    table_FCI = reward_tables(context_N, item_N, reward_N, fold_N, (2, 2))
    mean = 0.5  # of rounds 1 and 2, which fold 0 is foretold by
    rate_C = (np.array([0, 1]) + PRIOR_ROUNDS * mean) / (1 + PRIOR_ROUNDS)
    ratio_I = (np.array([0, 1]) + PRIOR_REWARDS) / (np.array([0, rate_C.sum()]) + PRIOR_REWARDS)
    assert np.allclose(table_FCI[0], rate_C[:, None] * ratio_I)
    group_N = np.array([0, 1, 0, 2, 1])
    fold_N = folds(group_N, seed=1)
    assert all(len(set(fold_N[group_N == one])) == 1 for one in range(3))


def test_intervals_hold_the_truth_in_a_few_made_worlds():
    found, overlap = coverage(20, 5, 1_000, distance=1.0, click_rate=0.1)
    assert overlap["effective_sample_size"] > 300 and all(found[name].share > 0.88 for name in ("ips", "snips", "dr"))
    assert found["dm"].share < 0.5, "a model's own interval knows nothing of what the model lacks"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("num_rounds", "distance", "click_rate"), [(2_000, 0.5, 0.1), (2_000, 1.5, 0.1), (10_000, 1.5, 0.01)]
)
def test_intervals_of_95_percent_hold_the_truth_in_93_to_97_percent_of_200_worlds(num_rounds, distance, click_rate):
    found, _ = coverage(200, 10, num_rounds, distance, click_rate)
    for name in ("ips", "snips", "dr"):
        assert 0.93 <= found[name].share <= 0.97, (name, found[name])
    for name in ("switch-dr", "shrunk-dr"):
        assert found[name].share >= 0.9, (name, found[name])
