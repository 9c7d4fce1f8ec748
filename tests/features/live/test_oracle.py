"""After any events in any order the store holds what the etl stage would have made of the log with them in it."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from features.etl import _States, as_of_features
from features.events import _time_order
from features.history import EventLog, coded
from features.live.config import EventsConfig
from features.live.event import Event
from features.live.intake import Intake
from features.live.target import STORE
from features.online_store import OnlineStore
from features.schema import load_schema
from features.workflow import load_workflow

NEW_USERS = ("newcomer", "né\U0001f600")


def raw_events(etl) -> pa.Table:
    return pq.read_table(etl.file("events.parquet"))


@pytest.fixture(scope="module")
def pushed(live_etl):
    """Events that crowd on few users: after the log's end, in its time, and at the very seconds of its interactions."""
    rng = np.random.default_rng(5)
    users = pq.read_table(live_etl.file("users.parquet"))
    items = pq.read_table(live_etl.file("items.parquet"))["raw_id"].to_pylist()
    as_of = live_etl.metrics["as_of"]
    heavy = np.argsort(-users["num_events"].to_numpy())[:3]
    without = np.flatnonzero(users["num_events"].to_numpy() == 0)[:2]
    named = [*users["raw_id"].take([*heavy, 3, 4, *without]).to_pylist(), *NEW_USERS]
    events = {}
    for number in range(260):
        spread = rng.choice([30, 3_000, 90 * 86_400])
        moment = as_of + int(rng.integers(-spread // 3, spread))
        channel = ["app", "shop", "web", "never seen before", None][rng.integers(5)]
        attributes = {"channel": channel, "price": 2.5} if rng.random() < 0.8 else {}
        event = Event(f"e{number}", rng.choice(named), rng.choice(items), moment, json.dumps(attributes), as_of + 10**8)
        events.setdefault((event.user_id, event.item_id, event.timestamp), event)
    return list(events.values())


def etl_state(etl, events: list[Event]) -> pa.Table:
    """What the etl stage makes of the log up to `as_of` and the events, in the order of the users; new ones last."""
    users = pq.read_table(etl.file("users.parquet"))
    rows = {raw_id: row for row, raw_id in enumerate([*users["raw_id"].to_pylist(), *NEW_USERS])}
    items = {raw_id: row for row, raw_id in enumerate(pq.read_table(etl.file("items.parquet"))["raw_id"].to_pylist())}
    log = raw_events(etl)
    log = log.filter(pa.array(log["timestamp"].to_numpy() < etl.metrics["as_of"]))
    user_row = np.concatenate([log["user_row"], [rows[event.user_id] for event in events]]).astype(np.int64)
    item_row = np.concatenate([log["item_row"], [items[event.item_id] for event in events]]).astype(np.int64)
    timestamp = np.concatenate([log["timestamp"], [event.timestamp for event in events]]).astype(np.int64)
    channel = pa.array([*log["channel"].to_pylist(), *(event.values.get("channel") for event in events)], pa.string())
    price = np.concatenate([log["price"], np.full(len(events), 2.5)])
    order = _time_order(timestamp, user_row, item_row)
    channels = {"channel": coded(channel).take(pa.array(order))}
    whole = EventLog(user_row[order], item_row[order], timestamp[order], price[order], channels)
    moment = int(max(timestamp.max() + 1, etl.metrics["as_of"]))
    states = _States(load_workflow(etl, "interactions"), whole, as_of_features(etl), moment)
    encoded = pa.table({"row": np.arange(len(rows))})
    return pa.concat_tables(states.users(pa.chunked_array([pa.array(list(rows))]), encoded))


def assert_store_equals(folder: Path, etl, expected: pa.Table) -> None:
    schema = load_schema(etl.file("schema.json"))
    read = OnlineStore(folder, schema).read(expected["raw_id"].to_pylist())
    assert read.known.all()
    for name in (*as_of_features(etl).user_columns, "num_events", "last_timestamp"):
        stored = read.features[name] if name in read.features else getattr(read, name)
        wanted = np.array(expected[name].to_pylist())
        np.testing.assert_array_equal(stored, wanted.astype(stored.dtype), err_msg=name)
    for seen, wanted in zip(read.seen, expected["seen"].to_pylist(), strict=True):
        assert set(seen[seen >= 0].tolist()) == set(wanted)


def in_any_order(events: list[Event], seed: int) -> list[Event]:
    """Shuffled, and a third of them twice: once more under the same id, or under another one."""
    rng = np.random.default_rng(seed)
    again = rng.choice(len(events), len(events) // 3, replace=False)
    twice = [
        events[place] if place % 2 else replace(events[place], event_id=f"again {events[place].event_id}")
        for place in again
    ]
    sent = [*events, *twice]
    return [sent[place] for place in rng.permutation(len(sent))]


def not_in_log(etl, events: list[Event]) -> list[Event]:
    """Without those that the log has, or of which it cannot be said: older than what is kept, of an item once had."""
    log = raw_events(etl)
    users = pq.read_table(etl.file("users.parquet"))["raw_id"]
    items = pq.read_table(etl.file("items.parquet"))["raw_id"]
    columns = (users.take(log["user_row"]).to_pylist(), log["timestamp"].to_pylist(), items.take(log["item_row"]))
    past: dict[str, list] = {}
    for user, moment, item in zip(*columns[:2], columns[2].to_pylist(), strict=True):
        if moment < etl.metrics["as_of"]:
            past.setdefault(user, []).append((moment, item))

    def is_new(event: Event) -> bool:
        had, length = past.get(event.user_id, []), as_of_features(etl).history_length
        if event.timestamp >= etl.metrics["as_of"] or (event.timestamp, event.item_id) in had:
            return event.timestamp >= etl.metrics["as_of"]
        is_older = len(had) > length and event.timestamp < had[-length][0]
        return not (is_older and event.item_id in {item for _, item in had})

    return [event for event in events if is_new(event)]


@pytest.mark.parametrize("seed", range(3))
def test_the_store_is_what_the_etl_stage_would_make(seed, live_etl, pushed, make_version, columns_of, tmp_path):
    version = make_version()
    sent = in_any_order(pushed, seed)
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", EventsConfig()) as intake:
        statuses = []
        for begin in range(0, len(sent), 37):
            statuses += intake.push(columns_of(sent[begin : begin + 37]))
        assert not intake.behind
    assert statuses.count("accepted") == len(pushed)
    assert statuses.count("duplicate") == len(sent) - len(pushed)
    counted = not_in_log(live_etl, pushed)
    assert 0 < len(pushed) - len(counted) < len(pushed) / 10
    assert_store_equals(version / STORE, live_etl, etl_state(live_etl, counted))
