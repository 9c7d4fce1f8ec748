"""The schedule of the learning rates against its formulas."""

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranking.training.schedule import RateSchedule


def test_the_warm_up_is_a_straight_line_to_the_full_rate():
    schedule = RateSchedule(num_steps=100, warmup_steps=4)
    assert [schedule.share(step) for step in range(6)] == [0.2, 0.4, 0.6, 0.8, 1.0, 1.0]
    assert schedule.share(10_000) == 1


def test_linear_and_cosine_take_the_values_of_their_formulas():
    linear = RateSchedule(num_steps=12, warmup_steps=2, decay="linear", final_share=0.5)
    assert [linear.share(step) for step in (2, 7, 12, 50)] == pytest.approx([1, 0.75, 0.5, 0.5])
    cosine = RateSchedule(num_steps=12, warmup_steps=2, decay="cosine", final_share=0.2)
    expected = [0.2 + 0.8 * (1 + math.cos(math.pi * p)) / 2 for p in (0, 0.25, 0.5, 1, 1)]
    assert [cosine.share(step) for step in (2, 4.5, 7, 12, 99)] == pytest.approx(expected)


def test_without_warm_up_and_decay_every_step_is_a_full_one():
    assert {RateSchedule(num_steps=7).share(step) for step in range(20)} == {1.0}


@given(
    st.integers(1, 500),
    st.integers(0, 600),
    st.sampled_from(["constant", "linear", "cosine"]),
    st.floats(0, 1),
)
def test_it_rises_then_never_rises_again_and_stays_within_its_bounds(num_steps, warmup_steps, decay, final_share):
    schedule = RateSchedule(num_steps, warmup_steps, decay, final_share)
    shares = [schedule.share(step) for step in range(700)]
    warm, rest = shares[:warmup_steps], shares[warmup_steps:]
    assert warm == sorted(warm) and all(0 < share < 1 for share in warm)
    assert all(one >= other - 1e-12 for one, other in pairwise(rest))
    assert rest[0] == pytest.approx(1) and all(final_share - 1e-9 <= share <= 1 + 1e-9 for share in rest)
