"""Permutation importance, on models that are known to rely on some features and not on others."""

from __future__ import annotations

import numpy as np
import pytest

from ranking.importance import candidate_importance, click_importance, list_measures

NUM_ROWS, NUM_LISTS, NUM_ITEMS = 3_000, 300, 12


def drops_by(drops) -> dict[tuple[str, str], float]:
    return {(drop.feature, drop.measure): drop.mean for drop in drops}


def test_what_the_model_does_not_read_loses_nothing_and_what_it_reads_alone_loses_all():
    random = np.random.default_rng(0)
    columns = {name: random.normal(size=NUM_ROWS).astype(np.float32) for name in ("signal", "noise")}
    probability = 1 / (1 + np.exp(-2 * columns["signal"]))
    label = (random.random(NUM_ROWS) < probability).astype(np.int8)
    drops = click_importance(
        lambda given: 1 / (1 + np.exp(-2 * given["signal"])), columns, label, ["signal", "noise"], 10, seed=1
    )
    found = drops_by(drops)
    from sklearn.metrics import roc_auc_score

    assert found["signal", "auc"] == pytest.approx(roc_auc_score(label, probability) - 0.5, abs=0.02)
    assert found["signal", "log_loss"] > 0.3
    assert found["noise", "auc"] == 0 and found["noise", "log_loss"] == 0
    signal = next(drop for drop in drops if (drop.feature, drop.measure) == ("signal", "auc"))
    low, high = signal.interval
    assert low < signal.mean < high < low + 0.1


def lists(seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    """Two taken items a list, the best by `item_good`; the last places of some lists are empty."""
    random = np.random.default_rng(seed)
    good = random.normal(size=(NUM_LISTS, NUM_ITEMS))
    shown = (np.arange(NUM_ITEMS) < random.integers(6, NUM_ITEMS + 1, (NUM_LISTS, 1))).astype(np.float32)
    order = np.argsort(-np.where(shown > 0, good, -np.inf), axis=1)
    taken = np.zeros_like(shown)
    np.put_along_axis(taken, order[:, :2], 1, axis=1)
    columns = {"item_good": good, "item_noise": random.normal(size=good.shape), "user_sign": np.ones(NUM_LISTS)}
    columns["user_sign"][::2] = -1
    columns["item_good"] = good * columns["user_sign"][:, None]
    return columns, taken, shown


def test_of_candidates_a_feature_is_shuffled_within_its_list_and_a_users_among_the_lists():
    columns, taken, shown = lists()
    drops = candidate_importance(
        lambda given: given["item_good"] * given["user_sign"][:, None],
        columns,
        taken,
        shown,
        np.arange(NUM_LISTS) // 3,
        list(columns),
        lambda name: name.startswith("item_"),
        10,
        seed=1,
    )
    found = drops_by(drops)
    assert found["item_noise", "ndcg@10"] == found["item_noise", "mrr"] == 0
    # Shuffled signs turn half of the lists around: the taken items come last in them.
    worst = list_measures(-columns["item_good"] * columns["user_sign"][:, None], taken, shown)
    for measure in ("ndcg@10", "mrr"):
        assert found["user_sign", measure] == pytest.approx((1 - worst[measure].mean()) / 2, abs=0.05)
    random_order = np.mean(
        [
            (1 - list_measures(np.random.default_rng(s).random(taken.shape), taken, shown)["ndcg@10"]).mean()
            for s in range(20)
        ]
    )
    assert found["item_good", "ndcg@10"] == pytest.approx(random_order, abs=0.02)


def test_the_measures_are_their_definitions():
    score = np.array([[3.0, 2.0, 1.0, 9.0], [1.0, 1.0, 0.0, 0.0], [1.0, 2.0, 3.0, 4.0]])
    taken = np.array([[0, 1, 1, 1], [1, 0, 0, 0], [0, 0, 0, 0]])
    shown = np.array([[1, 1, 1, 0], [1, 1, 1, 1], [1, 1, 1, 1]])
    found = list_measures(score, taken, shown)
    ideal = 1 + 1 / np.log2(3)
    assert found["ndcg@10"] == pytest.approx([(1 / np.log2(3) + 1 / 2) / ideal, 1 / np.log2(3), 0])  # ties come last
    assert found["mrr"] == pytest.approx([1 / 2, 1 / 2, 0])
