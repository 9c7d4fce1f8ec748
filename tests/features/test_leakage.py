"""The future changes no feature. Every raw interaction feature is covered by name, new ones included."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.artifact import Artifact
from features.as_of import AsOf, raw_interactions
from features.history import EventLog
from features.logs import InteractionColumns, Logs
from features.schema import load_schema
from features.workflow import load_workflow

AS_OF = AsOf(history_length=10, window_days=5.0, has_prices=True, categories=("channel",))
Columns = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def rich_logs(logs: Logs) -> Logs:
    """Logs whose interactions have everything that interactions may have."""
    rng = np.random.default_rng(5)
    num = len(logs.interactions)
    more = {
        "price": pa.array(np.round(rng.lognormal(3, 1, num), 2), mask=rng.random(num) < 0.05),
        "channel": pa.array(rng.choice(["web", "shop", "app"], num), mask=rng.random(num) < 0.05),
    }
    interactions = pa.table(dict(zip(logs.interactions.column_names, logs.interactions.columns, strict=True)) | more)
    return replace(
        logs, interactions=interactions, interaction_columns=InteractionColumns(price=True, categorical=("channel",))
    )


@pytest.fixture(scope="module")
def rich_etl(make_etl: Callable[[Logs], Artifact], rich_logs: Logs) -> Artifact:
    return make_etl(rich_logs)


@pytest.fixture(scope="module")
def feature_names(rich_etl: Artifact) -> list[str]:
    """Every interaction feature of the schema: a new one is in the tests below without being named here."""
    static = {*load_workflow(rich_etl, "users").output_schema.column_names}
    static |= {*load_workflow(rich_etl, "items").output_schema.column_names}
    names = [column.name for column in load_schema(rich_etl.file("schema.json")) if column.name not in static]
    return [name for name in names if name not in ("hour", "weekday")]  # of the moment itself


@pytest.fixture(scope="module")
def events(rich_etl: Artifact) -> Columns:
    table = pq.read_table(rich_etl.file("events.parquet"))
    return {name: table[name].to_numpy(zero_copy_only=False) for name in table.column_names}


def features_at(events: Columns, user: np.ndarray, item: np.ndarray, moment: int) -> pa.Table:
    columns = events | {"channel": pa.array(events["channel"].tolist(), pa.string()).dictionary_encode()}
    log = EventLog.from_events(pa.table(columns))
    raw = raw_interactions(log, user, item, np.full(len(user), moment), AS_OF)
    return raw.set_column(raw.schema.get_field_index("user_last_channel"), "user_last_channel", [_text(raw)])


def _text(raw: pa.Table) -> pa.Array:
    """The categories as text: their codes depend on what the log holds."""
    return pa.array(raw["user_last_channel"].to_pylist(), pa.string())


def remove(events: Columns, later: np.ndarray, rng: np.random.Generator) -> Columns:
    return {name: column[~later] for name, column in events.items()}


def change(events: Columns, later: np.ndarray, rng: np.random.Generator) -> Columns:
    changed = {name: column.copy() for name, column in events.items()}
    for name in ("user_row", "item_row", "price", "channel"):
        changed[name][later] = rng.permutation(changed[name][later])
    changed["timestamp"][later] += rng.integers(0, 10**7, later.sum())
    return changed


def add_later(events: Columns, later: np.ndarray, rng: np.random.Generator) -> Columns:
    more = rng.choice(np.flatnonzero(later), 500)
    added = {
        name: column[more] if name == "timestamp" else rng.permutation(column[more]) for name, column in events.items()
    }
    return {name: np.concatenate([column, added[name]]) for name, column in events.items()}


@pytest.mark.parametrize("share", [0.02, 0.3, 0.7, 0.99])
@pytest.mark.parametrize("edit", [remove, add_later, change])
def test_no_feature_changes_when_anything_at_or_after_its_moment_does(
    feature_names: list[str], events: Columns, edit: Callable[..., Columns], share: float
) -> None:
    moment = int(
        events["timestamp"][int(share * len(events["timestamp"]))]
    )  # an event's own second: what happens in it does not count
    later = events["timestamp"] >= moment
    user, item = np.arange(200).repeat(2), np.arange(400) % 100
    edited = edit(events, later, np.random.default_rng(1))
    before, after = (features_at(log, user, item, moment) for log in (events, edited))
    for name in feature_names:
        assert before[name].equals(after[name]), name


def test_every_feature_changes_when_the_past_does(feature_names: list[str], events: Columns) -> None:
    """Otherwise the test above would prove nothing for it."""
    moment = int(events["timestamp"][2_000])
    edited = remove(events, np.arange(len(events["timestamp"])) % 2 == 0, np.random.default_rng(1))
    user, item = np.arange(200).repeat(2), np.arange(400) % 100
    before, after = (features_at(log, user, item, moment) for log in (events, edited))
    for name in feature_names:
        assert not before[name].equals(after[name]), name


def test_encoded_train_examples_do_not_change_when_only_later_events_do(
    rich_etl: Artifact, make_etl: Callable[[Logs], Artifact], rich_logs: Logs
) -> None:
    etl, logs = rich_etl, rich_logs
    later = pc.greater_equal(logs.interactions["timestamp"], etl.metrics["valid_from"]).to_numpy()
    rng = np.random.default_rng(2)
    changed = logs.interactions.to_pandas()
    changed.loc[later, "item_id"] = rng.permutation(changed.loc[later, "item_id"])
    for name in ("user_id", "price", "channel"):
        changed.loc[later, name] = rng.permutation(changed.loc[later, name])
    other = make_etl(replace(logs, interactions=pa.Table.from_pandas(changed, preserve_index=False)))
    assert other.metrics["valid_from"] == etl.metrics["valid_from"]
    assert pq.read_table(other.path / "examples/train").equals(pq.read_table(etl.path / "examples/train"))
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
