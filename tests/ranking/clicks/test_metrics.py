"""Click metrics against their definitions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.clicks.metrics import RankedLabels, auc, calibration_ratio, log_losses, normalised_entropy

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
