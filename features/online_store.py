"""The users' features and histories in Feast's online store, and reading them for a request."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig, ValueType
from feast.types import Array, Float32, Int64, String
from merlin.schema import Schema, Tags

from features.artifact import Artifact, ArtifactError
from features.schema import PADDING, UNSEEN, list_length, load_schema, select

# B users  L list length
PROJECT = "cascade"
VIEW = "users"
KEY = "user"
REGISTRY, ONLINE = "registry.db", "online.db"
NO_ITEM = -1
STATE_COLUMNS = ("num_events", "last_timestamp", "seen")
"""What the store holds beside the models' features: interactions so far, Unix seconds of the last one, item rows."""


@dataclass(frozen=True)
class OnlineUsers:
    """What the store knew of B users."""

    features: dict[str, np.ndarray]
    """The USER features by name, encoded: [B] or [B, L]; for an unknown user what stands for "nothing known"."""
    known: np.ndarray
    """[B] bool: whether the store has the user."""
    num_events: np.ndarray
    """[B] int64."""
    last_timestamp: np.ndarray
    """[B] int64 Unix seconds, -1 for none."""
    seen: np.ndarray
    """[B, S] int64 item rows the user interacted with, NO_ITEM pads."""


class OnlineStore:
    """A Feast store in a folder: registry and SQLite file.

    Args:
        folder: what `write_online_store` made.
        schema: the USER features that were written.
    Raises: ArtifactError if a file is missing, or the registry does not describe the users.
    """

    def __init__(self, folder: Path, schema: Schema) -> None:
        self._folder = folder
        self._store: FeatureStore | None = _opened(folder)
        self._columns = list(select(schema, Tags.USER))
        names = [*(column.name for column in self._columns), *STATE_COLUMNS]
        self._wanted = [f"{VIEW}:{name}" for name in names]

    def read(self, user_ids: Sequence[str]) -> OnlineUsers:
        """Features of the users, in order; a user may come twice.

        Raises: whatever the store does when it cannot be read; the next call opens it anew.
        """
        rows = [{KEY: user_id} for user_id in user_ids]
        self._store = self._store or _opened(self._folder)
        try:
            answer = self._store.get_online_features(features=self._wanted, entity_rows=rows).to_dict()
        except Exception:  # a connection that broke once may never see the repaired or replaced file
            self._store = None
            raise
        return self._users(answer)

    def nobody(self, num_users: int) -> OnlineUsers:
        """What `read` returns for users whom the store does not have."""
        names = [*(column.name for column in self._columns), *STATE_COLUMNS]
        return self._users({name: [None] * num_users for name in names})

    def _users(self, answer: dict[str, list]) -> OnlineUsers:
        return OnlineUsers(
            features={column.name: _column(answer[column.name], column) for column in self._columns},
            known=np.array([value is not None for value in answer["num_events"]]),
            num_events=np.array([value or 0 for value in answer["num_events"]], dtype=np.int64),
            last_timestamp=np.array([-1 if value is None else value for value in answer["last_timestamp"]]),
            seen=_padded(answer["seen"], NO_ITEM, None),
        )


def write_online_store(folder: Path, etl: Artifact) -> int:
    """Make the store and load every user of the etl stage, as of its `as_of`.

    Returns: users written.
    """
    folder.mkdir(parents=True)
    schema = select(load_schema(etl.file("schema.json")), Tags.USER)
    names = [*(column.name for column in schema), *STATE_COLUMNS]
    users = pq.read_table(etl.file("users.parquet"))
    as_of = datetime.fromtimestamp(etl.metrics["as_of"], UTC)
    frame = pa.table({KEY: users["raw_id"]} | {name: users[name] for name in names}).to_pandas()
    frame["event_timestamp"] = pd.Timestamp(as_of)
    (folder / "feature_store.yaml").write_text(_FEATURE_STORE_YAML)
    store = FeatureStore(config=_repo_config(folder))
    entity = Entity(name=KEY, join_keys=[KEY], value_type=ValueType.STRING)
    view = FeatureView(
        name=VIEW,
        entities=[entity],
        ttl=timedelta(0),
        schema=[Field(name=KEY, dtype=String), *(Field(name=name, dtype=_feast_type(users, name)) for name in names)],
        source=FileSource(path="users.parquet", timestamp_field="event_timestamp"),
        online=True,
    )
    store.apply([entity, view])
    store.write_to_online_store(VIEW, frame)
    return len(frame)


_FEATURE_STORE_YAML = f"""# The folder is a Feast repository: `feast -c . feature-views list`
project: {PROJECT}
provider: local
registry: {REGISTRY}
online_store:
  type: sqlite
  path: {ONLINE}
entity_key_serialization_version: 3
"""


def _repo_config(folder: Path) -> RepoConfig:
    return RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"path": str(folder / REGISTRY), "cache_ttl_seconds": 0},  # 0: read once, never again
        online_store={"type": "sqlite", "path": str(folder / ONLINE)},
        entity_key_serialization_version=3,
    )


def _opened(folder: Path) -> FeatureStore:
    for name in (REGISTRY, ONLINE):
        if not (folder / name).is_file():  # SQLite would make an empty one
            raise ArtifactError(f"{folder / name} is missing; run `export` again")
    store = FeatureStore(config=_repo_config(folder))
    try:
        store.get_feature_view(VIEW)
    except Exception as error:  # protobuf's and Feast's own errors have no common type
        raise ArtifactError(f"{folder / REGISTRY} is damaged ({error}); run `export` again") from error
    return store


def _feast_type(table: pa.Table, name: str):
    kind = table.schema.field(name).type
    if pa.types.is_floating(kind):
        return Float32
    return Int64 if pa.types.is_integer(kind) else Array(Int64)


def _column(values: list, column) -> np.ndarray:
    if column.is_list:
        return _padded(values, PADDING, list_length(column))
    if column.int_domain:
        return np.array([UNSEEN if value is None else value for value in values], dtype=np.int64)
    return np.array([0.0 if value is None else value for value in values], dtype=np.float32)


def _padded(values: list, filler: int, length: int | None) -> np.ndarray:
    rows = [() if row is None else row for row in values]
    length = max(map(len, rows), default=0) if length is None else length
    padded = np.full((len(rows), length), filler, dtype=np.int64)
    for place, row in zip(padded, rows, strict=True):
        place[: len(row)] = row
    return padded
