"""A bulk load leaves exactly what Feast's own write leaves, or nothing."""

import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing
from dataclasses import asdict, replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore
from redis import Redis

from features.artifact import ArtifactError
from features.online_store import NO_ITEM, ONLINE, OnlineStore, StoreError, write_online_store
from features.schema import load_schema
from features.store import sqlite_rows, user_rows
from features.store.config import ROW_FORM, OnlineStoreConfig
from features.store.repository import KEY, SETTINGS, VIEW, repo_config
from features.store.row_update import stored_rows
from features.store.write import feature_names

KILLED_LOAD = """
import os, signal, sys
from pathlib import Path
from features.artifact import open_artifact
from features.online_store import OnlineStoreConfig, write_online_store
from features.store import user_rows
user_rows.USERS_PER_BATCH = 50
def die(num_written, num_users):
    if num_written >= 100:
        os.kill(os.getpid(), signal.SIGKILL)
etl, folder, kind, redis = sys.argv[1:]
write_online_store(Path(folder), open_artifact(Path(etl), "etl"), OnlineStoreConfig(type=kind, redis=redis), die)
"""


@pytest.fixture
def small_batches(monkeypatch):
    monkeypatch.setattr(user_rows, "USERS_PER_BATCH", 64)


def rows_of(settings) -> list | dict:
    """Everything in the store, byte for byte; of Redis without the row that says that the load is done."""
    if settings.online_store.type == "sqlite":
        with closing(sqlite3.connect(settings.online_store.path)) as connection:
            columns = "entity_key, feature_name, value, value_text, vector_value, event_ts, created_ts"
            return connection.execute(f'SELECT {columns} FROM "{settings.project}_{VIEW}" ORDER BY 1, 2').fetchall()
    host, port = settings.online_store.connection_string.split(",")[0].split(":")
    with Redis(host=host, port=int(port)) as client:
        return {key: client.hgetall(key) for key in client.scan_iter() if b"loaded" not in key}


def answer_of(store: FeatureStore, etl) -> dict:
    """What Feast itself answers for every user, and for one that does not exist."""
    users = pq.read_table(etl.file("users.parquet"))["raw_id"].to_pylist()
    wanted = [f"{VIEW}:{name}" for name in feature_names(etl)]
    return store.get_online_features(wanted, [{KEY: user} for user in [*users, "stranger"]]).to_dict()


@pytest.mark.parametrize("world", ["etl", "awkward_etl"])
def test_every_value_is_the_one_that_feast_writes(world, config, small_batches, tmp_path, request, written_by_feast):
    etl = request.getfixturevalue(world)
    theirs = written_by_feast(tmp_path / "theirs", etl, config)
    expected, expected_rows = answer_of(theirs, etl), rows_of(theirs.config)
    if config.type == "redis":
        with request.getfixturevalue("redis_server").client() as client:
            client.flushall()
    calls = []
    num_users = len(pq.read_table(etl.file("users.parquet")))
    assert write_online_store(tmp_path / "ours", etl, config, lambda *call: calls.append(call)) == num_users
    settings = repo_config(tmp_path / "ours")
    assert len(expected_rows) >= num_users and rows_of(settings) == expected_rows
    assert answer_of(FeatureStore(config=settings), etl) == expected
    assert calls[-1] == (num_users, num_users) and calls == sorted(calls) and len(calls) >= num_users / 64


def test_reading_for_a_request_is_what_feast_answers(awkward_etl, config, tmp_path):
    write_online_store(tmp_path / "store", awkward_etl, config)
    answer = answer_of(FeatureStore(config=repo_config(tmp_path / "store")), awkward_etl)
    read = OnlineStore(tmp_path / "store", load_schema(awkward_etl.file("schema.json"))).read(answer[KEY])
    assert read.known.tolist() == [value is not None for value in answer["num_events"]]
    assert read.num_events.tolist() == [value or 0 for value in answer["num_events"]]
    assert read.last_timestamp.tolist() == [-1 if value is None else value for value in answer["last_timestamp"]]
    for row, stored in zip(read.seen, answer["seen"], strict=True):
        expected = np.cumsum(stored or [], dtype=np.int64).tolist()
        assert row[: len(expected)].tolist() == expected and (row[len(expected) :] == NO_ITEM).all()
    for name, values in read.features.items():
        for value, expected in zip(values, answer[name], strict=True):
            if expected is not None:
                np.testing.assert_array_equal(value, np.asarray(expected, values.dtype), err_msg=name)


def test_the_sqlite_file_is_sound_and_laid_out_by_feast(awkward_etl, small_batches, tmp_path, written_by_feast):
    theirs = written_by_feast(tmp_path / "theirs", awkward_etl, OnlineStoreConfig())
    write_online_store(tmp_path / "ours", awkward_etl)
    layouts = []
    for path in (theirs.config.online_store.path, tmp_path / "ours" / ONLINE):
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            layouts.append(connection.execute("SELECT type, name, sql FROM sqlite_master ORDER BY 2").fetchall())
    assert layouts[0] == layouts[1]


@pytest.mark.parametrize("at_once", [1, 7, 64, 1_000])
def test_the_number_of_users_a_statement_takes_changes_nothing(at_once, awkward_etl, tmp_path, monkeypatch):
    write_online_store(tmp_path / "expected", awkward_etl)
    monkeypatch.setattr(sqlite_rows, "USERS_PER_STATEMENT", at_once)
    write_online_store(tmp_path / "store", awkward_etl)
    assert rows_of(repo_config(tmp_path / "store")) == rows_of(repo_config(tmp_path / "expected"))


def test_live_events_are_written_by_feast_on_top(etl, config, tmp_path):
    write_online_store(tmp_path / "store", etl, config)
    users = pq.read_table(etl.file("users.parquet"))
    row = users.slice(0, 1).select(feature_names(etl)).append_column(KEY, users["raw_id"].slice(0, 1)).to_pandas()
    row["seen"] = [np.diff(users["seen"][0].as_py(), prepend=0)]
    row["past"], row["live"] = [[3, 60]], [[5, 70]]
    row["num_events"], row["event_timestamp"] = 777, np.datetime64(etl.metrics["as_of"] + 60, "s")
    FeatureStore(config=repo_config(tmp_path / "store")).write_to_online_store(VIEW, row)
    store = OnlineStore(tmp_path / "store", load_schema(etl.file("schema.json")))
    ids = users["raw_id"].to_pylist()[:2]
    assert store.read(ids).num_events.tolist() == [777, users["num_events"][1].as_py()]
    seen = store.read(ids[:1]).seen[0].tolist()
    assert seen == [*users["seen"][0].as_py(), 5]


@pytest.mark.slow
def test_a_killed_load_leaves_no_store_and_the_next_one_is_whole(etl, config, tmp_path):
    arguments = [str(etl.path), str(tmp_path / "store"), config.type, config.redis]
    killed = subprocess.run([sys.executable, "-c", KILLED_LOAD, *arguments], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    schema = load_schema(etl.file("schema.json"))
    with pytest.raises(ArtifactError, match="is missing; run `export` again"):
        OnlineStore(tmp_path / "store", schema)
    write_online_store(tmp_path / "store", etl, config)
    users = pq.read_table(etl.file("users.parquet"))
    assert OnlineStore(tmp_path / "store", schema).read(users["raw_id"].to_pylist()).known.all()
    assert [path.name for path in tmp_path.iterdir()] == ["store"]


def test_a_load_that_fails_leaves_no_folder(etl, config, small_batches, tmp_path):
    def full(num_written, num_users):
        raise OSError("no space")

    with pytest.raises(OSError, match="no space"):
        write_online_store(tmp_path / "store", etl, config, full)
    assert not list(tmp_path.iterdir())


def test_a_user_who_comes_twice_is_refused(awkward_etl, tmp_path):
    users = pq.read_table(awkward_etl.file("users.parquet"))
    folder = shutil.copytree(awkward_etl.path, tmp_path / "etl")
    pq.write_table(pa.concat_tables([users[:-1], users.slice(5, 1)]), folder / "users.parquet")
    with pytest.raises(StoreError, match="raw_id comes twice"):
        write_online_store(tmp_path / "store", replace(awkward_etl, path=folder))
    assert not (tmp_path / "store").exists()


def test_rows_of_another_form_are_refused(etl, config, tmp_path):
    write_online_store(tmp_path / "store", etl, config)
    settings = tmp_path / "store" / SETTINGS
    settings.write_text(settings.read_text().replace(f"cascade_{ROW_FORM}_", "cascade_"))
    for opened in (lambda folder: OnlineStore(folder, load_schema(etl.file("schema.json"))), stored_rows):
        with pytest.raises(ArtifactError, match=r"rows are of another form than 2; run `export` again"):
            opened(tmp_path / "store")


def test_an_older_store_is_not_written_over(etl, tmp_path):
    (tmp_path / "store").mkdir()
    with pytest.raises(FileExistsError, match="is there already"):
        write_online_store(tmp_path / "store", etl)


def test_defaults_are_what_no_config_means(etl, tmp_path):
    write_online_store(tmp_path / "store", etl)
    assert asdict(OnlineStoreConfig())["type"] == "sqlite"
    assert repo_config(tmp_path / "store").project == f"cascade_{ROW_FORM}_{etl.content_hash[:16]}"
