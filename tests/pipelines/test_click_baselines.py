"""What the baselines of a click model are made of: features of trees by hand, equal seeds, refusals."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags

from pipelines.click_baselines import factorization_machine, lightgbm_trees, trees
from pipelines.click_baselines.tree_features import FOLDS, PRIOR_ROWS, TreeFeatures, TreePart
from pipelines.click_baselines.trees import MIN_TRIALS, TreeTrialsError
from ranking.clicks.batches import ClickBatches
from ranking.clicks.metrics import auc, log_losses
from ranking.config import ClickConfig, RankingConfig

NUM_IDS, LENGTH = 40, 3
NUM_ROWS = {"train": 3_000, "valid": 800, "test": 2_000}


def category(name: str, num_ids: int, length: int = 0) -> ColumnSchema:
    properties: dict = {"domain": {"min": 0, "max": num_ids - 1, "name": name}}
    if length:
        properties["value_count"] = {"min": length, "max": length}
    shape = {"is_list": bool(length), "is_ragged": False}
    return ColumnSchema(name, dtype="int32", tags=[Tags.CATEGORICAL], properties=properties, **shape)


LABEL = ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])
PRICE = ColumnSchema("price", dtype="float32", tags=[Tags.CONTINUOUS])
SCHEMA = Schema([LABEL, PRICE, category("shop", NUM_IDS)])


def rows(num_rows: int, random: np.random.Generator) -> tuple[pa.Table, np.ndarray]:
    """Shops with rates of their own, and a price with a threshold; true probabilities."""
    shop = random.integers(3, NUM_IDS, num_rows, np.int32)
    price = random.normal(size=num_rows).astype(np.float32)
    truth = 1 / (1 + np.exp(-(np.sin(37 * shop) + 1.5 * (price > 0.5) - 1)))
    label = (random.random(num_rows) < truth).astype(np.int8)
    return pa.table({"label": label, "price": price, "shop": shop}), truth


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, ClickBatches], np.ndarray, np.ndarray]:
    """Parts, and labels and true probabilities of the test part."""
    folder, random = tmp_path_factory.mktemp("parts"), np.random.default_rng(0)
    parts, truth, label = {}, np.empty(0), np.empty(0)
    for name, num_rows in NUM_ROWS.items():
        table, truth = rows(num_rows, random)
        label = table["label"].to_numpy()
        pq.write_table(table, folder / f"{name}.parquet")
        parts[name] = ClickBatches([folder / f"{name}.parquet"], SCHEMA, 128, 0)
    return parts, label, truth


def test_ids_become_rates_that_have_not_seen_the_rows_own_fold(world):
    parts, _, _ = world
    fitted = TreePart.of(parts["train"], SCHEMA)
    features = TreeFeatures(SCHEMA, fitted, seed=7)
    matrix = features.matrix(fitted, "rates")
    fold = np.random.default_rng(7).integers(0, FOLDS, NUM_ROWS["train"])
    shop, label = fitted.plain["shop"][:, 0], fitted.label_N
    for row in (0, 1_234, 2_999):
        others = (shop == shop[row]) & (fold != fold[row])
        rate = (label[others].sum() + PRIOR_ROWS * label.mean()) / (others.sum() + PRIOR_ROWS)
        assert matrix[row, 1:3] == pytest.approx([rate, others.sum() * FOLDS / (FOLDS - 1)], rel=1e-5)


def test_later_rows_get_rates_of_the_whole_train_part(world):
    parts, _, _ = world
    fitted, test = (TreePart.of(parts[name], SCHEMA) for name in ("train", "test"))
    features = TreeFeatures(SCHEMA, fitted, seed=7)
    matrix = features.matrix(test, "both")
    same = fitted.plain["shop"][:, 0] == test.plain["shop"][5, 0]
    rate = (fitted.label_N[same].sum() + PRIOR_ROWS * fitted.label_N.mean()) / (same.sum() + PRIOR_ROWS)
    number, shop = test.number_NF[5, 0], test.plain["shop"][5, 0]
    assert features.categorical("both") == [1]
    assert matrix[5] == pytest.approx([number, shop, rate, same.sum()], rel=1e-5)


def test_a_list_is_the_mean_of_its_elements_and_its_length():
    words = np.array([[3, 4, 0], [3, 0, 0], [4, 4, 5], [0, 0, 0]], np.int32)
    label = np.array([1, 0, 1, 0], np.float32)
    fitted = TreePart(np.zeros((4, 1), np.float32), {}, {"words": words}, label)
    asked = TreePart(np.ones((2, 1), np.float32), {}, {"words": np.array([[3, 5, 0], [0, 0, 0]], np.int32)}, label[:2])
    features = TreeFeatures(Schema([LABEL, PRICE, category("words", 6, LENGTH)]), fitted, seed=0)
    prior = PRIOR_ROWS / 2
    rates = (1 + prior) / (2 + PRIOR_ROWS), (1 + prior) / (1 + PRIOR_ROWS)  # word 3: one click in two rows; 5: in one
    expected = [[1, np.mean(rates), 1.5, 2], [1, 0, 0, 0]]
    for categories in ("native", "rates", "both"):
        assert features.matrix(asked, categories) == pytest.approx(np.array(expected)), categories
        assert features.categorical(categories) == []


def test_an_id_that_says_nothing_has_rates_that_say_nothing_where_it_was_counted():
    """In fold, the rate of an id of one row would be its label."""
    ids = np.arange(3, 2_003, dtype=np.int32)
    label = (np.random.default_rng(0).random(2_000) < 0.3).astype(np.float32)
    part = TreePart(np.zeros((2_000, 1), np.float32), {"shop": ids[:, None]}, {}, label)
    rate = TreeFeatures(Schema([LABEL, PRICE, category("shop", 2_003)]), part, 0).matrix(part, "rates")[:, 1]
    assert np.ptp(rate) == 0 and rate[0] == pytest.approx(label.mean(), rel=1e-4)


def test_trees_come_close_to_the_truth_and_equal_seeds_give_equal_trees(world):
    parts, label, truth = world
    config = RankingConfig()
    one, again = (
        lightgbm_trees(SCHEMA, config, parts["train"], parts["valid"], parts["test"], 3, num_trials=8) for _ in range(2)
    )
    assert np.array_equal(one.probability_N, again.probability_N) and one.trials == again.trials
    best, rate = log_losses(truth, label).mean(), log_losses(np.full(len(label), label.mean()), label).mean()
    found = log_losses(one.probability_N, label).mean()
    assert (rate - found) / (rate - best) > 0.75
    assert len(one.trials) == 8 and [trial["learning_rate"] for trial in one.trials[-2:]] == [0.05, 0.02]
    assert [trial["categories"] for trial in one.trials[:3]] == ["native", "rates", "both"]


def test_a_factorization_machine_is_tuned_in_all_its_settings(world):
    parts, label, _ = world
    config = RankingConfig(clicks=ClickConfig(batch_size=128, patience=1))
    found = factorization_machine(SCHEMA, config, parts["train"], parts["valid"], parts["test"], 3)
    assert {
        name: len({trial[name] for trial in found.trials}) for name in ("l2", "learning_rate", "embedding_dim")
    } == {
        "l2": 3,
        "learning_rate": 3,
        "embedding_dim": 3,
    }
    assert found.settings == min(found.trials, key=lambda trial: trial["valid_log_loss"])
    assert auc(found.probability_N, label) > 0.65


def test_too_few_trials_are_refused(world):
    parts, _, _ = world
    with pytest.raises(TreeTrialsError, match=f"num_trials of {MIN_TRIALS} or more, got 4"):
        lightgbm_trees(SCHEMA, RankingConfig(), parts["train"], parts["valid"], parts["test"], 0, num_trials=4)


def test_without_the_package_the_trees_are_left_out_and_say_so(world, monkeypatch: pytest.MonkeyPatch):
    parts, _, _ = world
    monkeypatch.setattr(trees, "find_spec", lambda name: None)
    found = lightgbm_trees(SCHEMA, RankingConfig(), parts["train"], parts["valid"], parts["test"], 0)
    assert found.skipped == "the package `lightgbm` is not installed; install the extra `evaluate`"
    assert len(found.probability_N) == 0
