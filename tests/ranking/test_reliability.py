"""Reliability curve and expected calibration error against their definitions."""

import numpy as np
import pytest

from ranking.clicks.metrics import MetricInputError
from ranking.reliability import EqualMassBins, expected_calibration_error


def error_by_hand(probability: np.ndarray, label: np.ndarray, num_bins: int) -> float:
    """Of rows whose number is a multiple of the bins, without equal probabilities."""
    order = np.argsort(probability)
    bins = np.split(order, num_bins)
    return float(np.mean([abs(probability[rows].mean() - label[rows].mean()) for rows in bins]))


def world(num_rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """True probabilities, most of them small, and labels drawn from them."""
    random = np.random.default_rng(seed)
    probability = random.beta(1, 4, num_rows)
    return probability, (random.random(num_rows) < probability).astype(np.int8)


def test_the_error_is_the_mean_gap_over_bins_of_equal_size():
    probability, label = world(1_500)
    assert expected_calibration_error(probability, label) == pytest.approx(error_by_hand(probability, label, 15))
    assert expected_calibration_error(probability, label, 10) == pytest.approx(error_by_hand(probability, label, 10))


def test_two_bins_by_hand():
    """Means said .15 and .75, clicks .5 and .5: gaps .35 and .25, each of half the rows."""
    assert expected_calibration_error(np.array([0.7, 0.1, 0.8, 0.2]), np.array([0, 1, 1, 0]), 2) == pytest.approx(0.3)


def test_equal_probabilities_stay_together_so_the_click_rate_itself_has_no_error():
    _, label = world(1_000)
    bins = EqualMassBins(np.full(1_000, label.mean()), np.sort(label))
    assert bins.error() == pytest.approx(0, abs=1e-12)
    assert len(bins.curve().num_rows_B) == 1


def test_counted_rows_are_as_if_they_stood_there_so_often():
    probability, label = world(200)
    count = np.random.default_rng(1).integers(0, 4, 200)
    bins = EqualMassBins(np.round(probability, 2), label)
    repeated = expected_calibration_error(np.repeat(np.round(probability, 2), count), np.repeat(label, count))
    assert bins.error(count) == pytest.approx(repeated)


def test_a_shift_of_all_probabilities_is_the_error():
    probability, label = world(400_000)
    assert expected_calibration_error(probability * 0.9 + 0.1, label) == pytest.approx(
        np.mean(0.1 - 0.1 * probability), abs=0.003
    )


@pytest.mark.parametrize("num_rows", [400, 20_000])
def test_true_probabilities_have_the_error_that_chance_alone_gives(num_rows: int):
    probability, _ = world(num_rows)
    random = np.random.default_rng(1)
    found = [expected_calibration_error(probability, random.random(num_rows) < probability) for _ in range(300)]
    expected = EqualMassBins(probability, np.zeros(num_rows)).error_if_calibrated()
    assert np.mean(found) == pytest.approx(expected, rel=0.05)


def test_the_curve_has_the_bins_means_and_wilsons_intervals():
    from scipy.stats import binomtest

    probability, label = world(1_500)
    curve = EqualMassBins(probability, label).curve(level=0.9)
    order = np.argsort(probability).reshape(15, 100)
    assert curve.num_rows_B.tolist() == [100] * 15
    assert curve.probability_B == pytest.approx(probability[order].mean(1))
    assert curve.click_rate_B == pytest.approx(label[order].mean(1))
    wilson = binomtest(int(label[order[3]].sum()), 100).proportion_ci(0.9, "wilson")
    assert (curve.low_B[3], curve.high_B[3]) == pytest.approx((wilson.low, wilson.high))


@pytest.mark.parametrize(
    ("probability", "label", "message"),
    [
        ([0.1, np.nan, 0.2], [0, 1, 0], "probability of row 1 .* is nan, needed a number in 0..1"),
        ([0.1, 0.3, 1.2], [0, 1, 0], "probability of row 2 .* is 1.2"),
        ([0.1, 0.3, 0.2], [0, 2, 0], "label of row 1 .* is 2, needed 0 or 1"),
        ([0.1, 0.3], [0, 1, 0], r"one length above 0, got \(2,\) and \(3,\)"),
        ([], [], "one length above 0"),
    ],
)
def test_what_cannot_be_measured_is_named(probability: list[float], label: list[int], message: str):
    with pytest.raises(MetricInputError, match=message):
        EqualMassBins(np.array(probability), np.array(label))
