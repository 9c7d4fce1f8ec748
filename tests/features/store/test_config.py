"""What the configuration refuses, and how an address with secrets becomes Feast's connection string."""

import pytest
from feast.infra.online_stores.redis import RedisOnlineStore
from pydantic import ValidationError

from features.artifact import ArtifactError
from features.store.config import OnlineStoreConfig, StoreError
from features.store.repository import SETTINGS, connection_string, repo_config

VARIABLE = "CASCADE_TEST_REDIS"


def parsed(config):
    """Hosts and options as Feast reads them."""
    return RedisOnlineStore._parse_connection_string(connection_string(config))


@pytest.mark.parametrize(
    "redis", ["redis://:pw@host:6379", "host:6379,password=pw", "host:6379,username=me", "pw@host:6379"]
)
def test_secrets_in_the_configuration_are_refused(redis):
    with pytest.raises(ValidationError, match="connection_string_env"):
        OnlineStoreConfig(redis=redis)


@pytest.mark.parametrize("redis", ["host", "host:port", "a:1,b:2", "host:6379,db", "${HOST}:1"])
def test_an_address_is_host_and_port(redis):
    with pytest.raises(ValidationError, match="redis must be host:port"):
        OnlineStoreConfig(type="redis", redis=redis)


def test_requests_do_not_wait_for_a_redis_that_hangs():
    nodes, options = parsed(OnlineStoreConfig(type="redis", redis="cache:6380,db=2,ssl=true", timeout_seconds=0.5))
    assert nodes == [{"host": "cache", "port": "6380"}]
    waiting = {"socket_timeout": 0.5, "socket_connect_timeout": 0.5, "retry": None}
    assert options == {"db": 2, "ssl": True} | waiting


def test_a_url_says_the_same_as_feasts_form(monkeypatch):
    config = OnlineStoreConfig(type="redis", connection_string_env=VARIABLE)
    monkeypatch.setenv(VARIABLE, "rediss://me:a%2Cb%3D%C3%A9@cache/3?ssl_cert_reqs=none")
    nodes, options = parsed(config)
    assert nodes == [{"host": "cache", "port": "6379"}]
    secrets = {"username": "me", "password": "a,b=é", "db": 3, "ssl": True, "ssl_cert_reqs": "none"}
    assert secrets.items() <= options.items()
    monkeypatch.setenv(VARIABLE, "redis://:123@cache:7000")
    nodes, options = parsed(config)
    assert nodes == [{"host": "cache", "port": "7000"}] and options["password"] == "123"


@pytest.mark.parametrize("value", ["http://:hidden@host", "redis://:hidden@", "redis://:hidden@[::1]:6379"])
def test_another_url_is_refused_without_repeating_it(value, monkeypatch):
    monkeypatch.setenv(VARIABLE, value)
    with pytest.raises(StoreError, match=f"{VARIABLE} must be") as error:
        connection_string(OnlineStoreConfig(type="redis", connection_string_env=VARIABLE))
    assert "hidden" not in str(error.value)


@pytest.mark.parametrize("text", ["", "project: [", "project: cascade", "\x00"])
def test_damaged_settings_are_named(text, tmp_path):
    (tmp_path / SETTINGS).write_text(text)
    with pytest.raises(ArtifactError, match=f"{SETTINGS} is damaged"):
        repo_config(tmp_path)


def test_missing_settings_are_named(tmp_path):
    with pytest.raises(ArtifactError, match=f"{SETTINGS} is missing"):
        repo_config(tmp_path)
