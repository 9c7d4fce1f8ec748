"""Click metrics against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.clicks.metrics import (
    GroupedAuc,
    MetricInputError,
    RankedLabels,
    auc,
    calibration_ratio,
    checked_probabilities,
    log_losses,
    normalised_entropy,
)

ROWS = st.lists(st.tuples(st.integers(0, 5), st.booleans(), st.integers(0, 3)), min_size=1, max_size=30)


def auc_by_pairs(score, label) -> float:
    clicks, others = score[label == 1], score[label == 0]
    if not len(clicks) or not len(others):
        return float("nan")
    return float(np.mean([(click > other) + (click == other) / 2 for click in clicks for other in others]))


@given(ROWS)
def test_auc_is_the_share_of_pairs_in_the_right_order_and_ties_are_half(rows):
    score, label, _ = (np.array(column, float) for column in zip(*rows, strict=True))
    assert auc(score, label) == pytest.approx(auc_by_pairs(score, label), nan_ok=True)


@given(ROWS)
def test_counted_impressions_are_as_if_they_stood_there_so_often(rows):
    score, label, count = (np.array(column, float) for column in zip(*rows, strict=True))
    repeated = auc_by_pairs(np.repeat(score, count.astype(int)), np.repeat(label, count.astype(int)))
    assert RankedLabels(score, label).auc(count) == pytest.approx(repeated, nan_ok=True)


def test_auc_of_four_impressions_by_hand():
    assert auc(np.array([0.1, 0.4, 0.35, 0.8]), np.array([0, 0, 1, 1])) == 0.75


def test_auc_without_anything_to_order_is_half_and_without_pairs_is_nan():
    assert auc(np.full(5, 0.3), np.array([0, 1, 1, 0, 0])) == 0.5
    assert np.isnan(auc(np.array([0.1, 0.2]), np.array([1, 1])))
    assert np.isnan(auc(np.empty(0), np.empty(0)))


@given(ROWS)
def test_gauc_is_the_auc_of_each_group_weighted_by_its_rows(rows):
    score, label, group = (np.array(column, int) for column in zip(*rows, strict=True))
    mine = [group == one for one in range(4)]
    values = np.array([auc_by_pairs(score[rows], label[rows]) for rows in mine])
    sizes = np.array([rows.sum() for rows in mine])
    known = ~np.isnan(values)
    expected = (values * sizes)[known].sum() / sizes[known].sum() if known.any() else np.nan
    found = GroupedAuc(score, label, group)
    assert found.value() == pytest.approx(expected, nan_ok=True)
    assert found.num_measured == known.sum()


def test_gauc_by_hand():
    """Group 0 is in order, 1 half, 2 has no click and counts nothing; the AUC of all rows is another number."""
    score = np.array([0.9, 0.8, 0.3, 0.3, 0.3, 0.3, 0.7])
    label, group = np.array([1, 0, 1, 0, 0, 1, 0]), np.array([0, 0, 1, 1, 1, 1, 2])
    found = GroupedAuc(score, label, group)
    assert found.value() == pytest.approx((2 * 1 + 4 * 0.5) / 6) and found.num_measured == 2
    assert found.value(np.array([3, 1, 5])) == pytest.approx((3 * 2 * 1 + 4 * 0.5) / 10)
    assert auc(score, label) != pytest.approx(found.value())


def test_knowing_only_who_clicks_often_earns_nothing_within_groups():
    random = np.random.default_rng(0)
    group = random.integers(0, 50, 5_000)
    habit = np.linspace(0.1, 0.9, 50)[group]
    label = random.random(5_000) < habit
    assert auc(habit, label) > 0.75 and GroupedAuc(habit, label, group).value() == 0.5


def test_gauc_without_a_group_that_has_both_is_nan():
    assert np.isnan(GroupedAuc(np.array([0.1, 0.2]), np.array([0, 1]), np.array([0, 1])).value())
    empty = np.empty(0, np.int64)
    assert np.isnan(GroupedAuc(empty, empty, empty).value())


@pytest.mark.parametrize("wrong", [np.nan, np.inf, -0.1, 1.1])
def test_a_probability_that_is_none_is_named(wrong: float):
    with pytest.raises(MetricInputError, match=rf"probability of row 1 .* is {wrong}, needed a number in 0\.\.1"):
        checked_probabilities(np.array([0.1, wrong]), np.array([0, 1]))


def test_log_loss_is_that_of_what_happened():
    assert log_losses(np.array([0.9, 0.2]), np.array([1, 0])) == pytest.approx([-np.log(0.9), -np.log(0.8)])


def test_a_saturated_sigmoid_that_is_wrong_has_a_large_and_finite_loss():
    assert log_losses(np.array([0, 1], np.float32), np.array([1, 0])) == pytest.approx([16.118, 16.118], abs=1e-3)


def test_normalised_entropy_by_hand():
    """A quarter clicks: the background entropy is -(0.25 ln 0.25 + 0.75 ln 0.75) = 0.562335."""
    assert normalised_entropy(0.281168, 0.25) == pytest.approx(0.5, abs=1e-5)


def test_saying_the_click_rate_itself_has_normalised_entropy_one_and_is_calibrated():
    label = np.array([1, 0, 0, 1, 0])
    losses = log_losses(np.full(5, label.mean()), label)
    assert normalised_entropy(losses.mean(), label.mean()) == pytest.approx(1)
    assert calibration_ratio(label.mean(), label.mean()) == 1


def test_calibration_is_expected_clicks_over_clicks():
    assert calibration_ratio(np.mean([0.2, 0.4, 0.6, 0.0]), np.mean([0, 0, 1, 0])) == pytest.approx(1.2)


def test_without_clicks_nothing_can_be_said():
    assert np.isnan(normalised_entropy(0.1, 0.0)) and np.isnan(calibration_ratio(0.1, 0.0))
