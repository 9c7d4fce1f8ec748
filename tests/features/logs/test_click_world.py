"""The made click world: its probabilities are true, its rows repeatable, and it has what real click logs have."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
import scipy.sparse as sp
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from features.logs.click_world import (
    CATEGORICAL,
    CONTINUOUS,
    DEVICES,
    LABEL,
    PROBABILITY,
    ClickWorld,
    ClickWorldConfig,
    make_click_world,
)
from features.logs.click_world_log import COLUMNS, ClickWorldLog
from features.logs.quarantine import Quarantine
from features.split import PART_NAMES, SplitConfig
from ranking.clicks.metrics import auc, log_losses

PROFILE = ("favourite_section", "favourite_colour")
SMALL = ClickWorldConfig(num_users=400, num_items=150, num_impressions=60_000, num_days=40)


@pytest.fixture(scope="module")
def world() -> ClickWorld:
    return make_click_world(SMALL)


@pytest.fixture(scope="module")
def rows(world: ClickWorld) -> pa.Table:
    return pa.concat_tables(world.days())


@pytest.fixture(scope="module")
def clicked(rows: pa.Table) -> np.ndarray:
    return rows[LABEL].to_numpy()


@pytest.fixture(scope="module")
def probability(rows: pa.Table) -> np.ndarray:
    return rows[PROBABILITY].to_numpy()


def test_in_each_bin_of_the_true_probability_as_many_are_clicked(probability: np.ndarray, clicked: np.ndarray) -> None:
    edges = np.quantile(probability, np.linspace(0, 1, 21)[1:-1])
    number = np.searchsorted(edges, probability)
    for one in range(20):
        here = number == one
        error = np.sqrt((probability[here] * (1 - probability[here])).sum())
        assert abs(clicked[here].sum() - probability[here].sum()) < 4 * error


@pytest.mark.parametrize("context", ["position", "device", "user_id", "item_id"])
def test_the_probability_is_true_of_every_context_too(
    rows: pa.Table, probability: np.ndarray, clicked: np.ndarray, context: str
) -> None:
    code = rows[context].combine_chunks().dictionary_encode().indices.to_numpy()
    error = np.sqrt(np.bincount(code, probability * (1 - probability)))
    deviation = (np.bincount(code, clicked) - np.bincount(code, probability)) / error
    assert np.abs(deviation).max() < 5
    assert 0.8 < np.square(deviation).mean() < 1.25 or len(deviation) < 30


def test_nothing_trained_on_the_log_ranks_better_than_the_true_probability(
    rows: pa.Table, probability: np.ndarray, clicked: np.ndarray
) -> None:
    fitted = np.arange(len(rows)) < 0.8 * len(rows)
    texts = np.column_stack([rows[name].to_numpy(zero_copy_only=False).astype(str) for name in CATEGORICAL])
    numbers = np.column_stack([np.nan_to_num(rows[name].to_numpy(zero_copy_only=False)) for name in CONTINUOUS])
    encoder, scaler = OneHotEncoder(handle_unknown="ignore").fit(texts[fitted]), StandardScaler().fit(numbers[fitted])
    features = sp.hstack([encoder.transform(texts), sp.csr_matrix(scaler.transform(numbers))]).tocsr()
    model = LogisticRegression(C=0.1, max_iter=200).fit(features[fitted], clicked[fitted])
    learned = model.predict_proba(features[~fitted])[:, 1]
    best, label = probability[~fitted], clicked[~fitted]
    assert 0.5 < auc(learned, label) < auc(best, label) - 0.01
    assert log_losses(best, label).mean() < log_losses(learned, label).mean()
    assert auc(best, label) > auc(np.clip(best + 0.1 * np.sin(np.arange(len(best))), 0, 1), label)


def test_the_logit_is_the_sum_that_the_world_describes(world: ClickWorld, rows: pa.Table) -> None:
    row = rows.slice(1234, 1).to_pylist()[0]
    user = pc.index(world.world.users["user_id"], row["user_id"]).as_py()
    item = pc.index(world.world.items["item_id"], row["item_id"]).as_py()
    device = DEVICES.index(row["device"])
    hour, weekend = row["timestamp"] // 3600 % 24, (row["timestamp"] // 86_400 + 3) % 7 in (5, 6)
    liking = float(world.user_taste[user] @ world.item_liking[item])
    logit = world.bias + 0.7 * (liking - world.liking_mean) / world.liking_deviation
    logit += world.user_effect[user] + world.item_effect[item] + world.thrift[user] * world.price[item]
    logit += (-0.5, -0.25, -0.35)[device] * np.log(row["position"])
    logit += 0.4 * np.cos(2 * np.pi * (hour - world.peak_hour[user]) / 24) + (world.weekend[item] if weekend else 0.0)
    assert row[PROBABILITY] == pytest.approx(1 / (1 + np.exp(-logit)), rel=1e-5)


def test_a_taste_is_that_of_the_profile_and_a_part_of_what_is_the_users_own(world: ClickWorld) -> None:
    taste = world.world.user_taste.astype(np.float64)
    codes = [world.profiles[name].combine_chunks().dictionary_encode().indices.to_numpy() for name in PROFILE]
    section = np.stack([taste[codes[0] == code].mean(0) for code in range(codes[0].max() + 1)])[codes[0]]
    left = taste - section
    colour = np.stack([left[codes[1] == code].mean(0) for code in range(codes[1].max() + 1)])[codes[1]]
    np.testing.assert_allclose(world.user_taste, section + colour + 0.35 * (left - colour), atol=1e-6)


def test_the_widest_direction_of_taste_counts_fully_and_the_next_one_half(world: ClickWorld) -> None:
    taste = world.world.item_taste.astype(np.float64)
    spread, direction = np.linalg.eigh(np.cov(taste.T))
    direction = direction[:, np.argsort(-spread)]
    along, counted = taste @ direction, world.item_liking @ direction
    np.testing.assert_allclose(counted, along / np.arange(1, taste.shape[1] + 1), atol=1e-5)


def test_the_same_seed_gives_the_same_rows_and_another_seed_others(rows: pa.Table) -> None:
    assert pa.concat_tables(make_click_world(SMALL).days()).equals(rows)
    other = ClickWorldConfig(num_users=400, num_items=150, num_impressions=60_000, num_days=40, seed=2)
    assert not pa.concat_tables(make_click_world(other).days()).equals(rows)


@pytest.mark.parametrize("num_impressions", [100, 12_345])
def test_the_number_of_rows_is_exact_and_leaves_users_and_items_as_they_are(
    world: ClickWorld, num_impressions: int
) -> None:
    config = ClickWorldConfig(num_users=400, num_items=150, num_impressions=num_impressions, num_days=40)
    made = make_click_world(config)
    assert sum(len(day) for day in made.days()) == num_impressions
    assert np.array_equal(made.user_effect, world.user_effect)
    assert made.profiles.equals(world.profiles)


def test_the_click_rate_is_the_one_asked_for(clicked: np.ndarray, probability: np.ndarray) -> None:
    assert probability.mean() == pytest.approx(SMALL.click_rate, abs=0.01)
    assert clicked.mean() == pytest.approx(SMALL.click_rate, abs=0.015)


def test_rows_are_in_order_of_time_and_pages_count_their_positions(rows: pa.Table) -> None:
    moment, position = rows["timestamp"].to_numpy(), rows["position"].to_numpy()
    assert (np.diff(moment) >= 0).all()
    goes_on = position[1:] == position[:-1] + 1
    assert (position[1:][~goes_on] == 1).all()
    user = np.array(rows["user_id"].to_pylist())
    assert (user[1:][goes_on] == user[:-1][goes_on]).all()


def test_the_end_has_users_and_items_that_the_beginning_has_not(rows: pa.Table) -> None:
    begin, end = rows.slice(0, 48_000), rows.slice(54_000)
    for name in ("user_id", "item_id"):
        assert len(set(end[name].to_pylist()) - set(begin[name].to_pylist())) > 0


@pytest.mark.parametrize("name", ["user_id", "item_id"])
def test_a_tenth_of_users_and_items_has_far_more_than_a_tenth_of_the_rows(rows: pa.Table, name: str) -> None:
    counts = np.sort(np.array([pair["counts"] for pair in rows[name].value_counts().to_pylist()]))[::-1]
    assert counts[: len(counts) // 10].sum() > 0.25 * counts.sum()


def test_a_profile_says_something_of_the_taste_and_not_all(world: ClickWorld) -> None:
    """A favourite section is liked better than another, and is not always the one liked best."""
    sections = world.world.items["section_name"].to_pylist()
    names = sorted(set(sections))
    centre = np.stack([world.world.item_taste[[s == name for s in sections]].mean(0) for name in names])
    liking = world.world.user_taste @ centre.T
    favourite = np.array([names.index(name) for name in world.profiles["favourite_section"].to_pylist()])
    chosen = np.take_along_axis(liking, favourite[:, None], 1)[:, 0]
    assert chosen.mean() > liking.mean() + 0.3 * liking.std()
    assert 0.05 < (favourite == liking.argmax(1)).mean() < 0.9


@pytest.fixture(scope="module")
def log() -> ClickWorldLog:
    return ClickWorldLog(SMALL, SplitConfig(valid_share=0.2, test_share=0.1))


def test_the_log_has_the_worlds_rows_without_their_probability(log: ClickWorldLog, rows: pa.Table) -> None:
    blocks = list(log.blocks(0, Quarantine()))
    table = pa.concat_tables([block.columns for block in blocks]).unify_dictionaries()
    assert tuple(table.column_names) == COLUMNS.names
    assert PROBABILITY not in table.column_names
    for name in COLUMNS.names:
        column = table[name]
        plain = column.cast(pa.string()) if pa.types.is_dictionary(column.type) else column
        assert plain.combine_chunks().equals(rows[name].combine_chunks())
    assert np.concatenate([block.lines for block in blocks]).tolist() == list(range(1, len(rows) + 1))


def test_the_parts_follow_each_other_in_time_with_the_true_probability_of_each_row(
    log: ClickWorldLog, probability: np.ndarray
) -> None:
    part = np.concatenate([block.part for block in log.blocks(0, Quarantine())])
    assert (np.diff(part) >= 0).all()
    shares = np.bincount(part) / len(part)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.01)
    truth = log.true_probability()
    assert np.array_equal(np.concatenate([truth[name] for name in PART_NAMES.values()]), probability)
