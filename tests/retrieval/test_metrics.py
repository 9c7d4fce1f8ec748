"""Metrics against examples computed by hand and against their definitions, one user at a time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retrieval.metrics import (
    Interval,
    RelevantItems,
    bootstrap_difference,
    bootstrap_interval,
    bootstrap_ratio,
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
)

PER_USER = (recall_at_k, ndcg_at_k, mrr_at_k, map_at_k, hit_rate_at_k)

RANKED = np.array([[3, 1, 2, 0], [0, 1, 2, 3], [5, -1, -1, -1], [4, 5, 6, 7]])
RELEVANT = [[1, 2, 9], [], [5], [0]]


def test_values_by_hand():
    log = np.log2
    expected = {
        recall_at_k: [2 / 3, np.nan, 1, 0],
        hit_rate_at_k: [1, np.nan, 1, 0],
        mrr_at_k: [1 / 2, np.nan, 1, 0],
        ndcg_at_k: [(1 / log(3) + 1 / log(4)) / (1 / log(2) + 1 / log(3) + 1 / log(4)), np.nan, 1, 0],
        map_at_k: [(1 / 2 + 2 / 3) / 3, np.nan, 1, 0],
    }
    for metric, values in expected.items():
        np.testing.assert_allclose(metric(RANKED, RELEVANT, 3), values, err_msg=metric.__name__)


def test_denominators_are_capped_by_k_where_the_definition_says_so():
    ranked, relevant = np.array([[0, 1]]), [[0, 1, 2, 3]]
    assert recall_at_k(ranked, relevant, 2) == [0.5]
    assert map_at_k(ranked, relevant, 2) == [1.0]
    assert ndcg_at_k(ranked, relevant, 2) == [1.0]


@st.composite
def worlds(draw):
    num_items = draw(st.integers(1, 12))
    num_users = draw(st.integers(0, 6))
    width = draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    rng = np.random.default_rng(seed)
    ranked = np.full((num_users, width), -1, np.int64)
    for row in ranked:
        shown = rng.permutation(num_items)[: rng.integers(0, width + 1)]
        row[np.sort(rng.permutation(width)[: len(shown)])] = shown[:width]
    relevant = [rng.integers(0, num_items, rng.integers(0, 8)) for _ in range(num_users)]
    return ranked, relevant, draw(st.integers(1, width))


def by_definition(row: list[int], wanted: set[int], k: int) -> dict[str, float]:
    if not wanted:
        return dict.fromkeys((metric.__name__ for metric in PER_USER), math.nan)
    hits = [rank for rank, item in enumerate(row[:k], start=1) if item in wanted]
    best = sum(1 / math.log2(rank + 1) for rank in range(1, min(k, len(wanted)) + 1))
    precisions = [sum(item in wanted for item in row[:rank]) / rank for rank in hits]
    return {
        "recall_at_k": len(hits) / len(wanted),
        "ndcg_at_k": sum(1 / math.log2(rank + 1) for rank in hits) / best,
        "mrr_at_k": 1 / hits[0] if hits else 0.0,
        "map_at_k": sum(precisions) / min(k, len(wanted)),
        "hit_rate_at_k": float(bool(hits)),
    }


@settings(max_examples=300, deadline=None)
@given(worlds())
def test_every_metric_equals_its_definition(world):
    ranked, relevant, k = world
    expected = [
        by_definition(row, set(wanted.tolist()), k) for row, wanted in zip(ranked.tolist(), relevant, strict=True)
    ]
    for metric in PER_USER:
        values = metric(ranked, relevant, k)
        assert values.shape == (len(ranked),) and values.dtype == np.float64
        np.testing.assert_allclose(values, [one[metric.__name__] for one in expected], err_msg=metric.__name__)


@settings(max_examples=100, deadline=None)
@given(worlds())
def test_metrics_lie_between_0_and_1_and_are_1_for_the_perfect_ranking(world):
    _, relevant, k = world
    perfect = np.full((len(relevant), 12), -1)
    for row, wanted in zip(perfect, relevant, strict=True):
        row[: len(set(wanted))] = sorted(set(wanted))
    for metric in (ndcg_at_k, mrr_at_k, map_at_k, hit_rate_at_k):
        values = metric(perfect, relevant, k)
        np.testing.assert_allclose(values[~np.isnan(values)], 1.0)


def test_relevant_items_of_pairs_in_any_order_equal_those_of_lists():
    pairs = RelevantItems.from_pairs(np.array([3, 0, 0, 2, 0]), np.array([0, 9, 1, 5, 9]), 4)
    assert pairs.indptr.tolist() == [0, 2, 2, 3, 4] and pairs.item_row.tolist() == [1, 9, 5, 0]
    assert pairs.user.tolist() == [0, 0, 2, 3]
    assert pairs.where(pairs.item_row > 4).indptr.tolist() == [0, 1, 1, 2, 2]
    np.testing.assert_array_equal(RelevantItems.from_lists([[9, 1], [], [5], [0]]).item_row, pairs.item_row)


def test_coverage_and_gini_by_hand():
    ranked = np.array([[0, 1], [0, -1], [0, 2]])
    assert coverage_at_k(ranked, 4, 2) == 3 / 4
    assert coverage_at_k(ranked, 4, 1) == 1 / 4
    assert gini_at_k(ranked, 4, 1) == 3 / 4  # one of four items takes everything: 1 - 1/N
    assert gini_at_k(np.array([[0, 1], [2, 3]]), 4, 2) == 0
    exposure = [3, 1, 1, 0]
    pairwise = sum(abs(a - b) for a in exposure for b in exposure) / (2 * 4 * sum(exposure))
    assert gini_at_k(ranked, 4, 2) == pytest.approx(pairwise)
    assert math.isnan(gini_at_k(np.full((2, 2), -1), 4, 2))


def test_novelty_is_the_mean_self_information_of_the_items_shown():
    counts = np.array([2, 0, 4])  # shares with one added: 3/9, 1/9, 5/9
    values = novelty_at_k(np.array([[0, 1], [2, -1], [-1, -1]]), counts, 2)
    np.testing.assert_allclose(values, [(np.log2(3) + np.log2(9)) / 2, np.log2(9 / 5), np.nan])


def test_bootstrap_interval_agrees_with_the_normal_approximation():
    values = np.random.default_rng(1).random(400)
    interval = bootstrap_interval(np.append(values, np.nan), 4000, seed=7)
    error = values.std() / np.sqrt(len(values))
    assert interval.mean == pytest.approx(values.mean()) and interval.num_users == 400
    assert interval.low == pytest.approx(values.mean() - 1.96 * error, abs=0.15 * error)
    assert interval.high == pytest.approx(values.mean() + 1.96 * error, abs=0.15 * error)
    assert interval == bootstrap_interval(values, 4000, seed=7)
    assert interval != bootstrap_interval(values, 4000, seed=8)


def test_bootstrap_is_the_same_whether_or_not_it_is_cut_into_chunks(monkeypatch):
    values = np.random.default_rng(2).random(50)
    whole = bootstrap_interval(values, 100, seed=3)
    monkeypatch.setattr("retrieval.metrics._RESAMPLED_PER_CHUNK", 50 * 20)
    assert bootstrap_interval(values, 100, seed=3) == whole


def test_a_paired_difference_is_sharper_than_two_intervals():
    rng = np.random.default_rng(4)
    theirs = rng.random(300)
    ours = theirs + 0.02 + 0.01 * rng.standard_normal(300)
    difference = bootstrap_difference(ours, theirs, seed=0)
    assert 0.015 < difference.low < difference.mean < difference.high < 0.025
    assert bootstrap_interval(ours, seed=0).low < bootstrap_interval(theirs, seed=0).high


def test_a_ratio_is_of_the_means_and_its_interval_that_of_joint_resamples():
    rng = np.random.default_rng(6)
    theirs = rng.random(200)
    ours = 1.2 * theirs + 0.02 * rng.standard_normal(200)
    found = bootstrap_ratio(np.append(ours, np.nan), np.append(theirs, 1.0), 2000, seed=3)
    assert found.mean == pytest.approx(ours.mean() / theirs.mean()) and found.num_users == 200
    drawn = np.random.default_rng(3).integers(0, 200, (2000, 200), dtype=np.int32)
    expected = np.quantile(ours[drawn].mean(axis=1) / theirs[drawn].mean(axis=1), [0.025, 0.975], method="nearest")
    np.testing.assert_allclose([found.low, found.high], expected)
    assert 1.18 < found.low < found.mean < found.high < 1.22, "pairing by user keeps the spread between users out"
    assert bootstrap_ratio(theirs, theirs, seed=0) == Interval(1.0, 1.0, 1.0, 200)


def test_a_ratio_over_nothing_is_infinite_or_unknown_but_no_warning():
    hits = np.array([1.0] + [0.0] * 9)
    assert bootstrap_ratio(hits, np.zeros(10), seed=0).mean == math.inf
    assert math.isnan(bootstrap_ratio(np.zeros(10), np.zeros(10), seed=0).low)
    sometimes = bootstrap_ratio(np.ones(10), hits, seed=0)
    assert sometimes.mean == pytest.approx(10) and sometimes.high == math.inf and 1 < sometimes.low < 10
    assert bootstrap_ratio(np.array([np.nan]), np.ones(1), seed=0).num_users == 0
    with pytest.raises(ValueError, match="the same users"):
        bootstrap_ratio(np.ones(2), np.ones(3), seed=0)


def test_no_user_with_a_value_gives_nan_and_zero_users():
    interval = bootstrap_interval(np.array([np.nan]), seed=0)
    assert isinstance(interval, Interval) and math.isnan(interval.mean) and interval.num_users == 0


@pytest.mark.parametrize(
    ("ranked", "relevant", "k", "message"),
    [
        ([[0, 1]], [[0]], 3, r"k must lie in 1\.\.2"),
        ([[0, 1]], [[0]], 0, r"k must lie in 1\.\.2"),
        ([[0, 1]], [[0], [1]], 2, "ranked_BK has 1 users but relevant has 2"),
        ([[1, 1]], [[0]], 2, "repeats an item"),
        ([[0.0, 1.0]], [[0]], 2, "integer item rows"),
        ([[0, 1]], [[-1]], 2, "items be 0 or more"),
    ],
)
def test_wrong_input_is_refused_with_its_reason(ranked, relevant, k, message):
    for metric in PER_USER:
        with pytest.raises(ValueError, match=message):
            metric(np.array(ranked), relevant, k)


def test_item_rows_outside_the_catalogue_are_refused():
    for call in (
        lambda: coverage_at_k(np.array([[4]]), 4, 1),
        lambda: novelty_at_k(np.array([[4]]), np.ones(4), 1),
        lambda: gini_at_k(np.array([[-2]]), 4, 1),
    ):
        with pytest.raises(ValueError, match=r"item rows must lie in -1\.\.3"):
            call()
    with pytest.raises(ValueError, match="the same users"):
        bootstrap_difference(np.ones(2), np.ones(3), seed=0)
    with pytest.raises(ValueError, match="level"):
        bootstrap_interval(np.ones(2), seed=0, level=1.0)
