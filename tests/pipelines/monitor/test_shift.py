"""PSI and Kolmogorov-Smirnov of samples, and how often chance is taken for a shift."""

import math

import numpy as np
import pytest
from scipy.stats import ks_2samp

from pipelines.monitor.shift import Sample, category_shift, number_shift, share_grew


def sample(values, users=None) -> Sample:
    values = np.asarray(values, np.float64)
    return Sample(values, np.arange(len(values)) if users is None else np.asarray(users))


def test_psi_of_categories_is_the_formula():
    old, new = [3] * 60 + [4] * 40, [3] * 30 + [4] * 70
    shift = category_shift(sample(old), sample(new))
    assert shift is not None and shift.ks is None
    p, q = np.array([60.5, 40.5]) / 101, np.array([30.5, 70.5]) / 101
    assert shift.psi == pytest.approx(((q - p) * np.log(q / p)).sum())
    same = category_shift(sample(old), sample(old))
    assert same is not None and same.psi == 0


def test_a_value_that_was_never_there_counts_among_the_others():
    shift = category_shift(sample([3] * 100), sample([3] * 50 + [9] * 50))
    assert shift is not None and shift.exceeds(0.25, 0.2)


def test_ks_is_that_of_scipy_and_a_shift_of_half_a_deviation_is_at_both_thresholds():
    rng = np.random.default_rng(1)
    old, new = rng.normal(size=100_000), rng.normal(0.5, 1, size=100_000)
    shift = number_shift(sample(old), sample(new))
    assert shift is not None and shift.ks == pytest.approx(ks_2samp(old, new).statistic)
    assert shift.psi == pytest.approx(0.25, abs=0.02) and shift.ks == pytest.approx(0.2, abs=0.01)
    assert shift.before == pytest.approx(old.mean()) and shift.now == pytest.approx(new.mean())


@pytest.mark.parametrize("size", [20, 100, 1_000])
def test_samples_of_one_population_are_hardly_ever_a_shift(size):
    rng = np.random.default_rng(size)
    alarms = 0
    for _ in range(200):
        numbers = number_shift(sample(rng.normal(size=2_000)), sample(rng.normal(size=size)))
        codes = category_shift(sample(rng.integers(3, 30, 2_000)), sample(rng.integers(3, 30, size)))
        assert numbers is not None and codes is not None
        alarms += numbers.exceeds(0, 0) + codes.exceeds(0, 0)
    assert alarms <= 4, "1 of 1,000 each would be 0.6 of 600"


def test_values_of_one_user_count_once_when_it_is_asked_what_chance_does():
    rng = np.random.default_rng(1)
    of_user = rng.normal(size=30)
    user = rng.integers(0, 30, 3_000)
    reference = sample(rng.normal(size=2_000))
    alone = number_shift(reference, sample(of_user[user]))
    grouped = number_shift(reference, sample(of_user[user], user))
    assert alone is not None and grouped is not None and alone.psi > 0.1
    assert alone.exceeds(0.1, 0.1) and not grouped.exceeds(0.1, 0.1)


def test_nothing_to_compare_is_no_shift():
    assert number_shift(sample([]), sample([1.0])) is None
    assert number_shift(sample([math.nan]), sample([1.0])) is None
    assert category_shift(sample([3.0]), sample([])) is None


def test_a_share_must_grow_by_more_than_the_threshold_and_by_more_than_chance():
    assert share_grew(0.0, 2_000, 0.1, 1_000, by=0.05)
    assert not share_grew(0.0, 2_000, 0.04, 1_000, by=0.05)
    assert not share_grew(0.0, 2_000, 0.2, 5, by=0.05), "one of five"
    assert not share_grew(0.3, 2_000, 0.1, 1_000, by=0.05)
    assert not share_grew(0.0, 0, 1.0, 10, by=0.05)
