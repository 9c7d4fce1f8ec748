"""Arrivals are drawn beforehand, with the rate and the unevenness they are asked for."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipelines.arrivals import active_users, bursty_times, call_sizes, poisson_times

DRAWN = (poisson_times, bursty_times)


@pytest.mark.parametrize("drawn", DRAWN)
@settings(max_examples=60, deadline=None)
@given(rate=st.floats(0.1, 500), seconds=st.floats(0.1, 30), seed=st.integers(0, 2**32 - 1))
def test_times_are_ascending_and_inside_the_test(drawn, rate, seconds, seed):
    times = drawn(rate, seconds, np.random.default_rng(seed))
    assert (np.diff(times) >= 0).all()
    assert not len(times) or (times[0] >= 0 and times[-1] <= seconds)
    np.testing.assert_array_equal(times, drawn(rate, seconds, np.random.default_rng(seed)))


@pytest.mark.parametrize("seed", range(3))
def test_poisson_counts_have_the_mean_and_the_variance_of_the_law(seed):
    times = poisson_times(50.0, 2000.0, np.random.default_rng(seed))
    counts = np.histogram(times, bins=2000, range=(0, 2000))[0]
    # Standard errors: of the mean sqrt(50 / 2000) = .16, of the variance about 50 * sqrt(2 / 2000) = 1.6.
    assert counts.mean() == pytest.approx(50, abs=4 * 0.16)
    assert counts.var() == pytest.approx(50, abs=4 * 1.6)
    gaps = np.diff(times)
    assert gaps.std() / gaps.mean() == pytest.approx(1, abs=0.02)  # exponential


@pytest.mark.parametrize("seed", range(3))
def test_bursts_keep_the_mean_rate_and_are_far_more_uneven(seed):
    times = bursty_times(50.0, 4000.0, np.random.default_rng(seed))
    assert len(times) / 4000 == pytest.approx(50, rel=0.1)
    counts = np.histogram(times, bins=16_000, range=(0, 4000))[0]
    assert counts.var() > 10 * counts.mean()
    assert (counts == 0).mean() > 0.4  # silence between bursts


@settings(max_examples=60, deadline=None)
@given(kind=st.sampled_from(["zipf", "lognormal"]), high=st.integers(1, 200), seed=st.integers(0, 2**32 - 1))
def test_heavy_tailed_sizes_stay_within_a_call(kind, high, seed):
    sizes = call_sizes(kind, 300, high, np.random.default_rng(seed))
    assert sizes.min() >= 1 and sizes.max() <= high


@pytest.mark.parametrize("kind", ["zipf", "lognormal"])
def test_most_calls_are_small_and_a_few_are_as_large_as_allowed(kind):
    sizes = call_sizes(kind, 50_000, 64, np.random.default_rng(1))
    assert (sizes == 1).mean() > (sizes == 2).mean() > (sizes == 4).mean() > 0
    assert np.mean(sizes >= 32) > 0.001
    assert sizes.mean() > 1.5 * np.median(sizes)


@pytest.mark.parametrize("kind", ["0", "65", "-1", "1.5", "", "pareto"])
def test_a_size_that_no_call_can_have_is_refused(kind):
    with pytest.raises(ValueError, match=r"must be zipf, lognormal or a number 1\.\.64"):
        call_sizes(kind, 10, 64, np.random.default_rng(1))
    assert call_sizes("7", 3, 64, np.random.default_rng(1)).tolist() == [7, 7, 7]


def test_users_ask_in_proportion_to_one_over_their_rank():
    events = np.array([5, 100, 0, 20])  # ranks 3, 1, 4, 2
    drawn = np.bincount(active_users(events, 100_000, np.random.default_rng(1)), minlength=4) / 100_000
    weight = np.array([1 / 3, 1, 1 / 4, 1 / 2])
    np.testing.assert_allclose(drawn, weight / weight.sum(), atol=0.01)
