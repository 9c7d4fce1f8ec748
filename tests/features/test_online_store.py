"""The online store gives back, in the order asked, what the etl stage knew; and it says when it cannot."""

import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import Tags

from features.artifact import ArtifactError
from features.logs.contract import FeatureColumns, Logs
from features.online_store import NO_ITEM, ONLINE, REGISTRY, OnlineStore, write_online_store
from features.schema import load_schema, select

STRANGE_IDS = [
    "12",
    "012",
    "12 ",
    " 12",
    "é",
    "e\u0301",
    "\U0001f600",
    "\uffff",
    "a,b",
    'quote"',
    "line\nbreak",
    "x" * 256,
]
"""Ids that look like numbers, like each other, or like nothing."""


@pytest.fixture(scope="module")
def folder(etl, tmp_path_factory):
    folder = tmp_path_factory.mktemp("online") / "store"
    assert write_online_store(folder, etl) == etl.metrics["num_users"]
    return folder


@pytest.fixture(scope="module")
def schema(etl):
    return load_schema(etl.file("schema.json"))


@pytest.fixture
def own_folder(folder, tmp_path):
    """A copy of the store that a test may break."""
    return shutil.copytree(folder, tmp_path / "store")


def test_every_user_comes_back_as_the_etl_stage_wrote_it(etl, folder, schema):
    users = pq.read_table(etl.file("users.parquet"))
    order = np.random.default_rng(0).permutation(len(users))
    read = OnlineStore(folder, schema).read(users["raw_id"].take(order).to_pylist())
    assert read.known.all()
    assert set(read.features) == {column.name for column in select(schema, Tags.USER)}
    for name, values in read.features.items():
        expected = np.array(users[name].take(order).to_pylist())
        np.testing.assert_array_equal(values, expected.astype(values.dtype), err_msg=name)
    np.testing.assert_array_equal(read.num_events, users["num_events"].take(order))
    np.testing.assert_array_equal(read.last_timestamp, users["last_timestamp"].take(order))
    for seen, expected in zip(read.seen, users["seen"].take(order).to_pylist(), strict=True):
        assert seen[seen != NO_ITEM].tolist() == expected


def test_unknown_and_repeated_users_each_get_their_own_row(etl, folder, schema):
    store = OnlineStore(folder, schema)
    known = pq.read_table(etl.file("users.parquet"))["raw_id"][0].as_py()
    read = store.read(["stranger", known, f"{known} ", known, known.upper(), f"{known}\0"])
    assert read.known.tolist() == [False, True, False, True, False, False]
    nobody = store.nobody(1)
    for name, values in read.features.items():
        np.testing.assert_array_equal(values[1], values[3])
        np.testing.assert_array_equal(values[0], nobody.features[name][0])
        assert values.dtype == nobody.features[name].dtype and values.shape[1:] == nobody.features[name].shape[1:]
    assert read.num_events[0] == 0 and read.last_timestamp[0] == -1 and (read.seen[0] == NO_ITEM).all()


def test_ids_are_text_whatever_they_look_like(make_etl, tmp_path):
    rng = np.random.default_rng(0)
    user = [*STRANGE_IDS, *rng.choice(STRANGE_IDS, 200)]
    items = [f"i{number}" for number in range(20)]
    interactions = pa.table(
        {"user_id": user, "item_id": rng.choice(items, len(user)), "timestamp": np.arange(len(user)) * 3_600}
    )
    nothing = pa.table({name: pa.array([], pa.string()) for name in ("table", "file", "reason", "text")})
    logs = Logs(
        interactions,
        pa.table({"user_id": STRANGE_IDS}),
        pa.table({"item_id": items, "title": items}),
        FeatureColumns(),
        FeatureColumns(),
        nothing,
        {"interactions": len(user), "users": len(STRANGE_IDS), "items": len(items)},
        {},
    )
    etl = make_etl(logs)
    write_online_store(tmp_path / "store", etl)
    users = pq.read_table(etl.file("users.parquet"))
    num_events = dict(zip(users["raw_id"].to_pylist(), users["num_events"].to_pylist(), strict=True))
    read = OnlineStore(tmp_path / "store", load_schema(etl.file("schema.json"))).read(STRANGE_IDS)
    assert read.known.all() and read.num_events.tolist() == [num_events[user_id] for user_id in STRANGE_IDS]


@pytest.mark.parametrize("name", [REGISTRY, ONLINE])
def test_a_missing_file_is_named_and_not_made(own_folder, schema, name):
    (own_folder / name).unlink()
    with pytest.raises(ArtifactError, match=f"{name} is missing"):
        OnlineStore(own_folder, schema)
    assert not (own_folder / name).exists()


def test_a_damaged_registry_is_named(own_folder, schema):
    (own_folder / REGISTRY).write_bytes(b"\xff" * 64)
    with pytest.raises(ArtifactError, match=f"{REGISTRY} is damaged"):
        OnlineStore(own_folder, schema)


@pytest.mark.parametrize("damage", [b"garbage" * 1_000, b""])
def test_after_a_failure_the_repaired_file_is_read(own_folder, schema, damage):
    store, file = OnlineStore(own_folder, schema), own_folder / ONLINE
    whole = file.read_bytes()
    expected = store.read(["customer-000001"]).num_events.tolist()
    file.write_bytes(damage)
    with pytest.raises(Exception, match=r"not a database|no such table"):
        store.read(["customer-000001"])
    replacement = own_folder / "new.db"
    replacement.write_bytes(whole)
    os.replace(replacement, file)
    assert store.read(["customer-000001"]).num_events.tolist() == expected


def test_a_store_taken_away_after_a_failure_is_missed_and_not_made(own_folder, schema):
    store, file = OnlineStore(own_folder, schema), own_folder / ONLINE
    store.read(["u"])
    file.write_bytes(b"garbage" * 1_000)
    with pytest.raises(Exception, match="not a database"):
        store.read(["u"])
    file.unlink()
    with pytest.raises(ArtifactError, match=f"{ONLINE} is missing"):
        store.read(["u"])
    assert not file.exists()
