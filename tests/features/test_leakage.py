"""The future changes no feature. Every raw interaction feature is covered by name, new ones included."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.artifact import Artifact
from features.etl import EtlConfig, raw_interactions
from features.history import EventLog
from features.logs import Logs
from features.workflow import KEYS, load_workflow

CONFIG = EtlConfig(history_length=10, popularity_window_days=5)
Columns = tuple[np.ndarray, np.ndarray, np.ndarray]


@pytest.fixture(scope="module")
def feature_names(etl: Artifact) -> list[str]:
    """Every interaction feature, as the fitted workflow reads it."""
    names = load_workflow(etl, "interactions").input_schema.column_names
    return [name for name in names if name not in KEYS]


@pytest.fixture(scope="module")
def events(etl: Artifact) -> Columns:
    table = pq.read_table(etl.file("events.parquet"))
    user, item, time = (table[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
    return user, item, time


def features_at(events: Columns, user: np.ndarray, item: np.ndarray, moment: int) -> pa.Table:
    return raw_interactions(EventLog(*events), user, item, np.full(len(user), moment), CONFIG)


def remove(events: Columns, later: np.ndarray, rng: np.random.Generator) -> Columns:
    return events[0][~later], events[1][~later], events[2][~later]


def change(events: Columns, later: np.ndarray, rng: np.random.Generator) -> Columns:
    user, item, time = (column.copy() for column in events)
    user[later], item[later] = rng.permutation(user[later]), rng.permutation(item[later])
    time[later] += rng.integers(0, 10**7, later.sum())
    return user, item, time


def add_later(events: Columns, later: np.ndarray, rng: np.random.Generator) -> Columns:
    more = rng.choice(np.flatnonzero(later), 500)
    added = (rng.permutation(events[0][more]), rng.permutation(events[1][more]), events[2][more])
    user, item, time = (np.concatenate(pair) for pair in zip(events, added, strict=True))
    return user, item, time


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("edit", [remove, add_later, change])
def test_no_feature_changes_when_anything_at_or_after_its_moment_does(
    feature_names: list[str], events: Columns, edit: Callable[..., Columns], share: float
) -> None:
    moment = int(events[2][int(share * len(events[2]))])  # an event's own second: what happens in it does not count
    later = events[2] >= moment
    user, item = np.arange(200).repeat(2), np.arange(400) % 100
    edited = edit(events, later, np.random.default_rng(1))
    before, after = (features_at(log, user, item, moment) for log in (events, edited))
    for name in feature_names:
        assert before[name].equals(after[name]), name


def test_every_feature_changes_when_the_past_does(feature_names: list[str], events: Columns) -> None:
    """Otherwise the test above would prove nothing for it."""
    moment = int(events[2][2_000])
    edited = remove(events, np.arange(len(events[2])) % 2 == 0, np.random.default_rng(1))
    user, item = np.arange(200).repeat(2), np.arange(400) % 100
    before, after = (features_at(log, user, item, moment) for log in (events, edited))
    for name in feature_names:
        assert not before[name].equals(after[name]), name


def test_encoded_train_examples_do_not_change_when_only_later_events_do(
    etl: Artifact, make_etl: Callable[[Logs], Artifact], logs: Logs
) -> None:
    later = pc.greater_equal(logs.interactions["timestamp"], etl.metrics["valid_from"]).to_numpy()
    rng = np.random.default_rng(2)
    changed = logs.interactions.to_pandas()
    changed.loc[later, "item_id"] = rng.permutation(changed.loc[later, "item_id"])
    changed.loc[later, "user_id"] = rng.permutation(changed.loc[later, "user_id"])
    other = make_etl(replace(logs, interactions=pa.Table.from_pandas(changed, preserve_index=False)))
    assert other.metrics["valid_from"] == etl.metrics["valid_from"]
    name = "examples/train.parquet"
    assert pq.read_table(other.file(name)).equals(pq.read_table(etl.file(name)))
    assert other.file("online.json").read_text() == etl.file("online.json").read_text()
    assert other.content_hash != etl.content_hash
    assert known_ids(other, "user") == known_ids(etl, "user") and known_ids(other, "item") == known_ids(etl, "item")
    items, other_items = (pq.read_table(artifact.file("items.parquet")) for artifact in (etl, other))
    for name in logs.item_features.names:
        assert items[f"item_{name}"].equals(other_items[f"item_{name}"]), name


def known_ids(etl: Artifact, entity: str) -> dict[str, int]:
    """Raw id -> id of the users or items of the train part."""
    table = pq.read_table(etl.file(f"{entity}s.parquet"))
    bound = 3 + etl.metrics[f"num_train_{entity}s"]
    pairs = zip(table["raw_id"].to_pylist(), table[f"{entity}_id"].to_pylist(), strict=True)
    return {raw: encoded for raw, encoded in pairs if 3 <= encoded < bound}
