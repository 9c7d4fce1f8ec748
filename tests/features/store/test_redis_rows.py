"""Users in a real Redis: kept apart from other deployments, taken out again, missed when they are gone."""

from dataclasses import replace

import pyarrow.parquet as pq
import pytest
from redis import RedisError

from features.online_store import OnlineStore, StoreError, drop_online_store, write_online_store
from features.schema import load_schema
from features.store import redis_rows, user_rows
from features.store.config import OnlineStoreConfig
from features.store.redis_rows import drop_redis_project, redis_projects
from features.store.repository import project_name

VARIABLE = "CASCADE_TEST_REDIS"


@pytest.fixture
def config(redis_server):
    return OnlineStoreConfig(type="redis", redis=redis_server.address)


@pytest.fixture
def schema(etl):
    return load_schema(etl.file("schema.json"))


@pytest.fixture
def ids(etl):
    return pq.read_table(etl.file("users.parquet"))["raw_id"].to_pylist()


def test_deployments_keep_to_their_own_rows(etl, awkward_etl, config, tmp_path, schema, ids):
    staging = replace(config, project_prefix="staging")
    write_online_store(tmp_path / "one", etl, config)
    write_online_store(tmp_path / "two", awkward_etl, config)
    write_online_store(tmp_path / "three", etl, staging)
    one, two, three = project_name(config, etl), project_name(config, awkward_etl), project_name(staging, etl)
    num_awkward = len(pq.read_table(awkward_etl.file("users.parquet")))
    assert redis_projects(config) == {one: len(ids), two: num_awkward, three: len(ids)}
    assert drop_online_store(tmp_path / "one") == len(ids)
    assert redis_projects(config) == {two: num_awkward, three: len(ids)}
    assert OnlineStore(tmp_path / "three", schema).read(ids).known.all()
    assert drop_redis_project(config.redis, three) == len(ids)
    assert drop_redis_project(config.redis, "nobody") == 0
    assert redis_projects(config) == {two: num_awkward}


def test_a_project_whose_name_ends_another_leaves_it_alone(etl, config, tmp_path, ids):
    write_online_store(tmp_path / "store", etl, config)
    hash_alone = etl.content_hash[:16]
    assert drop_redis_project(config.redis, hash_alone) == 0
    assert redis_projects(config) == {project_name(config, etl): len(ids)}


def test_more_users_than_a_scan_returns_are_dropped(etl, config, tmp_path, ids, monkeypatch):
    write_online_store(tmp_path / "store", etl, config)
    monkeypatch.setattr(redis_rows, "_KEYS_PER_SCAN", 7)
    assert drop_online_store(tmp_path / "store") == len(ids)
    assert redis_projects(config) == {}


def test_a_store_in_sqlite_has_nothing_to_drop(etl, tmp_path, schema, ids):
    write_online_store(tmp_path / "store", etl)
    assert drop_online_store(tmp_path / "store") == 0
    assert OnlineStore(tmp_path / "store", schema).read(ids).known.all()


@pytest.mark.parametrize("loss", ["flushed", "dropped"])
def test_users_that_redis_lost_are_missed_not_unknown(loss, etl, config, redis_server, tmp_path, schema, ids):
    write_online_store(tmp_path / "store", etl, config)
    store = OnlineStore(tmp_path / "store", schema)
    assert store.read([ids[0], "stranger"]).known.tolist() == [True, False]
    assert store.read(["stranger"]).known.tolist() == [False]
    with redis_server.client() as client:
        client.flushall() if loss == "flushed" else drop_online_store(tmp_path / "store")
    with pytest.raises(StoreError, match="does not hold the users of project"):
        store.read([ids[0]])
    write_online_store(tmp_path / "again", etl, config)
    assert store.read([ids[0]]).known.all()


def test_a_redis_that_is_down_is_an_error_until_it_is_back(etl, config, redis_server, tmp_path, schema, ids):
    write_online_store(tmp_path / "store", etl, config)
    store = OnlineStore(tmp_path / "store", schema)
    assert store.read(ids).known.all()
    redis_server.stop()
    with pytest.raises(RedisError):
        store.read(ids)
    with pytest.raises(StoreError, match=f"the Redis at {config.redis} did not do"):
        write_online_store(tmp_path / "again", etl, config)
    assert not (tmp_path / "again").exists()
    opened_while_down = OnlineStore(tmp_path / "store", schema)
    redis_server.start()
    write_online_store(tmp_path / "again", etl, config)
    assert store.read(ids).known.all() and opened_while_down.read(ids).known.all()


def test_a_full_redis_is_an_error(etl, config, redis_server, tmp_path):
    with redis_server.client() as client:
        client.config_set("maxmemory", "1")
        try:
            with pytest.raises(StoreError, match="OutOfMemoryError"):
                write_online_store(tmp_path / "store", etl, config)
        finally:
            client.config_set("maxmemory", "0")


def test_loading_again_keeps_rows_that_live_events_wrote(etl, config, redis_server, tmp_path, schema, ids):
    write_online_store(tmp_path / "store", etl, config)
    project = project_name(config, etl).encode()
    with redis_server.client() as client:
        keys = {key for key in client.scan_iter() if key.endswith(project) and ids[0].encode() in key}
        (key,) = keys
        newer = redis_rows.Timestamp(seconds=etl.metrics["as_of"], nanos=1).SerializeToString()
        client.hset(key, mapping={b"_ts:users": newer, redis_rows.field_name("num_events"): redis_rows._count(777)})
        (other,) = (key for key in client.scan_iter() if key.endswith(project) and ids[1].encode() in key)
        older = redis_rows.Timestamp(seconds=etl.metrics["as_of"] - 1).SerializeToString()
        client.hset(other, mapping={b"_ts:users": older, redis_rows.field_name("num_events"): redis_rows._count(888)})
        client.delete(*(key for key in client.scan_iter() if key.endswith(project) and ids[2].encode() in key))
    write_online_store(tmp_path / "again", etl, config)
    num_events = pq.read_table(etl.file("users.parquet"))["num_events"].to_pylist()
    expected = [777, *num_events[1:]]
    assert OnlineStore(tmp_path / "again", schema).read(ids).num_events.tolist() == expected


def test_what_a_broken_load_left_is_completed(etl, config, tmp_path, schema, ids, monkeypatch):
    monkeypatch.setattr(user_rows, "USERS_PER_BATCH", 50)

    def break_off(num_written, num_users):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_online_store(tmp_path / "store", etl, config, break_off)
    assert list(redis_projects(config).values()) == [50]
    write_online_store(tmp_path / "store", etl, config)
    assert OnlineStore(tmp_path / "store", schema).read(ids).known.all()


def test_rows_expire_when_told_to(etl, config, redis_server, tmp_path):
    write_online_store(tmp_path / "store", etl, replace(config, key_ttl_seconds=500))
    with redis_server.client() as client:
        lives = {key: client.ttl(key) for key in client.scan_iter()}
    (loaded,) = (key for key in lives if b"loaded" in key)
    assert lives.pop(loaded) == -1
    assert lives and all(400 < seconds <= 500 for seconds in lives.values())


@pytest.mark.parametrize(
    "form", ["127.0.0.1:{port},password={password},db=1", "redis://:{password}@127.0.0.1:{port}/1"]
)
def test_the_password_comes_from_the_environment_and_goes_nowhere(
    form, etl, make_redis, tmp_path, schema, ids, monkeypatch
):
    server = make_redis("s3cret-w0rd")
    config = OnlineStoreConfig(type="redis", connection_string_env=VARIABLE)
    with pytest.raises(StoreError, match=f"{VARIABLE} must hold the Redis connection string"):
        write_online_store(tmp_path / "store", etl, config)
    monkeypatch.setenv(VARIABLE, form.format(port=server.port, password="n0t-the-one"))
    with pytest.raises(StoreError) as refused:
        write_online_store(tmp_path / "store", etl, config)
    assert "n0t-the-one" not in str(refused.value)
    monkeypatch.setenv(VARIABLE, form.format(port=server.port, password=server.password))
    write_online_store(tmp_path / "store", etl, config)
    assert OnlineStore(tmp_path / "store", schema).read(ids).known.all()
    assert not any(server.password.encode() in path.read_bytes() for path in (tmp_path / "store").iterdir())
    with server.client(db=1) as client:
        assert client.dbsize() == len(ids) + 1
    monkeypatch.delenv(VARIABLE)
    with pytest.raises(StoreError, match=f"{VARIABLE} must hold the Redis connection string"):
        OnlineStore(tmp_path / "store", schema)
    server.stop()
