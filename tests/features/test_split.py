import numpy as np
import pytest
from hypothesis import given, reject
from hypothesis import strategies as st
from pydantic import ValidationError

from features.split import TEST, TRAIN, VALID, SplitConfig, time_split

SHARES = st.floats(0.01, 0.49)


@given(st.lists(st.integers(0, 60) | st.integers(0, 7 * 10**9), min_size=1, max_size=80), SHARES, SHARES)
def test_a_split_is_ordered_in_time_complete_and_about_as_large_as_asked(
    timestamps: list[int], valid_share: float, test_share: float
) -> None:
    timestamp = np.array(timestamps)
    try:
        split = time_split(timestamp, SplitConfig(valid_share=valid_share, test_share=test_share))
    except ValueError:
        reject()
    part = split.part_of(timestamp)
    assert part.dtype == np.int8
    assert set(part) == {TRAIN, VALID, TEST}
    assert timestamp[part == TRAIN].max() < timestamp[part == VALID].min()
    assert timestamp[part == VALID].max() < timestamp[part == TEST].min()
    assert split.valid_from == timestamp[part == VALID].min() and split.test_from == timestamp[part == TEST].min()
    assert (part == TEST).sum() >= int(len(part) * test_share)
    assert (part != TRAIN).sum() >= int(len(part) * (test_share + valid_share))
    ties = np.unique(timestamp, return_counts=True)[1].max()
    assert (part == TEST).sum() <= len(part) * test_share + ties
    assert (part != TRAIN).sum() <= len(part) * (test_share + valid_share) + ties


@given(st.permutations(list(range(30))))
def test_the_order_of_the_log_does_not_matter(timestamps: list[int]) -> None:
    assert time_split(np.array(timestamps), SplitConfig()) == time_split(np.arange(30), SplitConfig())


def test_distinct_times_are_split_exactly() -> None:
    split = time_split(np.arange(100), SplitConfig(valid_share=0.2, test_share=0.1))
    assert (split.valid_from, split.test_from) == (70, 90)


@pytest.mark.parametrize("timestamps", [[5], [5, 5, 5, 5], [1] + [9] * 50, []])
def test_a_log_that_cannot_be_split_is_refused(timestamps: list[int]) -> None:
    with pytest.raises(ValueError, match="the time split"):
        time_split(np.array(timestamps, dtype=np.int64), SplitConfig())


@pytest.mark.parametrize("share", [0, 0.5, -0.1, float("nan")])
def test_a_share_outside_its_range_is_refused(share: float) -> None:
    with pytest.raises(ValidationError):
        SplitConfig(valid_share=share)
