"""The store's folder: a Feast repository with settings, registry and, for SQLite, the rows."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

import pyarrow as pa
import yaml
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.protos.feast.types.EntityKey_pb2 import EntityKey
from feast.protos.feast.types.Value_pb2 import Value
from feast.types import Array, Float32, Int64, String

from features.artifact import Artifact, ArtifactError
from features.store.config import ROW_FORM, OnlineStoreConfig, StoreError

VIEW, KEY = "users", "user"
SETTINGS, REGISTRY, ONLINE = "feature_store.yaml", "registry.db", "online.db"
SEEN = "seen"
"""Item rows that the log has of a user, ascending, as steps (`features.store.value_bytes.steps`)."""
STATE_COLUMNS = ("num_events", "last_timestamp", SEEN)
"""What a request reads beside the models' features: interactions so far, Unix seconds of the last one, item rows."""
PAST, LIVE = "past", "live"
"""Item row and Unix seconds, in turn and newest first, of the log's last interactions and of all live events: what the
rest is made from when events come. `seen` stays as the log had it; LIVE is written by events only."""
KEY_VERSION = 3
"""Of Feast's entity keys."""


def entity_key(entity: str, name: str) -> EntityKey:
    """Feast's key of one text id."""
    return EntityKey(join_keys=[entity], entity_values=[Value(string_val=name)])


LOADED = entity_key("loaded", VIEW)
"""A row beside the users', written last into a store outside the folder: no such row, no such users."""


def project_name(config: OnlineStoreConfig, etl: Artifact) -> str:
    """The Feast project, which all of its rows carry: equal exactly for equal results of the etl stage."""
    return f"{config.project_prefix}_{ROW_FORM}_{etl.content_hash[:16]}"


def create_repository(folder: Path, config: OnlineStoreConfig, project: str, features: pa.Schema) -> RepoConfig:
    """Make the folder, with a registry that describes the features and, for SQLite, Feast's empty tables."""
    folder.mkdir(parents=True)
    document = {
        "project": project,
        "provider": "local",
        "registry": {"path": REGISTRY, "cache_ttl_seconds": 0},  # 0: read once, never again
        "online_store": _online_store(config),
        "entity_key_serialization_version": KEY_VERSION,
    }
    comment = "# The folder is a Feast repository: `feast -c . feature-views list`\n"
    (folder / SETTINGS).write_text(comment + yaml.safe_dump(document, sort_keys=False))
    settings = repo_config(folder)
    entity = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.STRING)
    view = FeatureView(
        name=VIEW,
        entities=[entity],
        ttl=timedelta(0),
        schema=[
            Field(name=KEY, dtype=String),
            *(Field(name=one.name, dtype=_feast_type(one.type)) for one in features),
        ],
        source=FileSource(path="users.parquet", timestamp_field="event_timestamp"),
        online=True,
    )
    FeatureStore(config=settings).apply([entity, view])
    return settings


def open_repository(folder: Path) -> FeatureStore:
    """The folder's store, opened.

    Raises: ArtifactError if a file is missing or damaged, or the rows are of another form; StoreError if the settings
        name a variable not set.
    """
    settings = readable_config(folder)
    files = (REGISTRY, ONLINE) if online_settings(settings).type == "sqlite" else (REGISTRY,)
    for name in files:
        if not (folder / name).is_file():  # SQLite would make an empty one
            raise ArtifactError(f"{folder / name} is missing; run `export` again")
    store = FeatureStore(config=settings)
    try:
        store.get_feature_view(VIEW)
    except Exception as error:  # protobuf's and Feast's own errors have no common type
        raise ArtifactError(f"{folder / REGISTRY} is damaged ({error}); run `export` again") from error
    return store


def readable_config(folder: Path) -> RepoConfig:
    """`repo_config` of a store whose rows are to be read or changed.

    Raises: ArtifactError also if they are of another form.
    """
    settings = repo_config(folder)
    if not re.search(rf"_{ROW_FORM}_[0-9a-f]{{16}}$", settings.project):
        raise ArtifactError(f"{folder}: its rows are of another form than {ROW_FORM}; run `export` again")
    return settings


def repo_config(folder: Path) -> RepoConfig:
    """The folder's settings with paths and secrets filled in, as Feast takes them."""
    try:
        document = yaml.safe_load((folder / SETTINGS).read_text())
        online, project = dict(document["online_store"]), document["project"]
        if online["type"] == "sqlite":
            online["path"] = str(folder / ONLINE)
        else:
            online["connection_string"] = _with_secret(online["connection_string"])
    except FileNotFoundError as error:
        raise ArtifactError(f"{folder / SETTINGS} is missing; run `export` again") from error
    except (yaml.YAMLError, UnicodeDecodeError, TypeError, KeyError) as error:
        raise ArtifactError(f"{folder / SETTINGS} is damaged ({error!r}); run `export` again") from error
    return RepoConfig(
        project=project,
        provider="local",
        registry={"path": str(folder / REGISTRY), "cache_ttl_seconds": 0},
        online_store=online,
        entity_key_serialization_version=KEY_VERSION,
    )


def online_settings(config: RepoConfig) -> Any:
    """What the settings say of the online store: Feast's config object of its type."""
    return config.online_store


def connection_string(config: OnlineStoreConfig) -> str:
    """The Redis with its password, for Feast or for a client of our own: nothing to write into a file."""
    return _with_secret(_online_store(config)["connection_string"])


def _online_store(config: OnlineStoreConfig) -> dict[str, Any]:
    if config.type == "sqlite":
        return {"type": "sqlite", "path": ONLINE}
    address = f"${{{config.connection_string_env}}}" if config.connection_string_env else config.redis
    waiting = f"socket_timeout={config.timeout_seconds},socket_connect_timeout={config.timeout_seconds}"
    settings = {"type": "redis", "connection_string": f"{address},{waiting},retry=null"}
    return settings | ({"key_ttl_seconds": config.key_ttl_seconds} if config.key_ttl_seconds else {})


def _with_secret(text: str) -> str:
    """The connection string, with the environment variable that it starts with replaced by its value."""
    named = re.match(r"\$\{(\w+)\}", text)
    if named is None:
        return text
    address = os.environ.get(named[1], "").strip()
    if not address:
        raise StoreError(
            f"the environment variable {named[1]} must hold the Redis connection string of the online store and is "
            "not set; set it to host:port,password=... or to a redis:// URL"
        )
    return (_of_url(address, named[1]) if "://" in address else address) + text[named.end() :]


def _of_url(url: str, variable: str) -> str:
    """A redis:// or rediss:// URL as Feast's connection string. No part of the URL gets into an error."""
    parts = urlsplit(url)
    if parts.scheme not in ("redis", "rediss") or not parts.hostname or ":" in parts.hostname:
        raise StoreError(f"{variable} must be host:port,... or redis://user:password@host:port/db; it is neither")
    options = {"username": parts.username, "password": parts.password}
    values: dict[str, str | int | bool] = {name: unquote(value) for name, value in options.items() if value}
    values |= {"db": int(parts.path.strip("/") or 0)} | ({"ssl": True} if parts.scheme == "rediss" else {})
    values |= dict(parse_qsl(parts.query))
    told = (f"{name}={json.dumps(value)}".replace(",", "\\u002c") for name, value in values.items())
    return ",".join([f"{parts.hostname}:{parts.port or 6379}", *told])


def _feast_type(kind: pa.DataType):
    if pa.types.is_floating(kind):
        return Float32
    return Int64 if pa.types.is_integer(kind) else Array(Int64)
