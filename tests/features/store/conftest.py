"""Stores of both kinds, users with awkward values, and Feast's own way to write them: the oracle."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from feast import FeatureStore

from features.artifact import Artifact
from features.store.config import OnlineStoreConfig
from features.store.live_file import LiveFile
from features.store.past_events import PastEvents
from features.store.repository import KEY, PAST, SEEN, VIEW, create_repository, project_name
from features.store.write import feature_names

NUM_AWKWARD = 300
INT64 = np.iinfo(np.int64)


@pytest.fixture(params=["sqlite", "redis"])
def config(request: pytest.FixtureRequest) -> OnlineStoreConfig:
    """One of each kind."""
    if request.param == "sqlite":
        return OnlineStoreConfig()
    return OnlineStoreConfig(type="redis", redis=request.getfixturevalue("redis_server").address)


@pytest.fixture(scope="session")
def awkward_etl(etl: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    """The etl artifact with users whose ids and values lie at the edges of their types, in no order."""
    folder = tmp_path_factory.mktemp("awkward")
    users = _awkward_users(pq.read_schema(etl.file("users.parquet")))
    pq.write_table(users, folder / "users.parquet", row_group_size=70)
    shutil.copyfile(etl.file("schema.json"), folder / "schema.json")
    shutil.copyfile(etl.file("online.json"), folder / "online.json")
    rng = np.random.default_rng(1)
    moment = np.sort(rng.integers(-(2**40), etl.metrics["as_of"], 4_000))
    events = {"user_row": rng.integers(0, 250, 4_000), "item_row": rng.integers(0, 2**40, 4_000), "timestamp": moment}
    pq.write_table(pa.table(events), folder / "events.parquet")
    metrics = dict(etl.metrics) | {"num_users": NUM_AWKWARD}
    manifest = dict(etl.manifest) | {"content_hash": "5e" * 32, "metrics": metrics}
    return replace(etl, path=folder, manifest=manifest)


def _awkward_users(schema: pa.Schema) -> pa.Table:
    rng = np.random.default_rng(0)
    ids = [
        "é",
        "e\u0301",
        "\U0001f600",
        "\uffff",
        "x" * 500,
        "12",
        "012",
        "12 ",
        "",
        "a\0b",
        *(f"u{n}" for n in range(NUM_AWKWARD - 10)),
    ]
    columns = {}
    for field in schema:
        if field.name == "raw_id":
            columns["raw_id"] = pa.array([str(one) for one in ids])
        elif pa.types.is_floating(field.type):
            odd = [None, np.nan, np.inf, -np.inf, -0.0, 1e-45, 3.4e38, 0.1]
            columns[field.name] = pa.array([*odd, *rng.normal(size=NUM_AWKWARD - len(odd))], field.type)
        elif pa.types.is_integer(field.type):
            odd = [INT64.min, INT64.max, -1, 0, 1, 127, 128, 2**14 - 1, 2**14, 2**32, 2**62]
            columns[field.name] = pa.array([*odd, *rng.integers(0, 300, NUM_AWKWARD - len(odd))], field.type)
        else:
            columns[field.name] = _awkward_lists(field.type, rng)
    return pa.table(columns, schema=schema).take(rng.permutation(NUM_AWKWARD))


def _awkward_lists(kind: pa.DataType, rng: np.random.Generator) -> pa.Array:
    if pa.types.is_fixed_size_list(kind):
        return pa.array(rng.integers(0, 200, (NUM_AWKWARD, kind.list_size)).tolist(), kind)
    odd = [[], [0], [INT64.min, INT64.max, -1], [2**14] * 60, rng.integers(0, 2**40, 5_000).tolist()]
    lengths = rng.integers(0, 90, NUM_AWKWARD - len(odd))
    return pa.array([*odd, *(rng.integers(0, 2**15, length).tolist() for length in lengths)], kind)


@pytest.fixture(scope="session")
def written_by_feast() -> Callable[[Path, Artifact, OnlineStoreConfig], FeatureStore]:
    """Makes the same store and fills it by Feast's own `write_to_online_store`, a value at a time."""

    def write(folder: Path, etl: Artifact, config: OnlineStoreConfig) -> FeatureStore:
        table = pq.read_table(etl.file("users.parquet"))
        past = PastEvents(etl, LiveFile.of(etl).history_length).column(0, len(table))
        features = table.select(feature_names(etl)).append_column(PAST, past)
        store = FeatureStore(config=create_repository(folder, config, project_name(config, etl), features.schema))
        frame = features.append_column(KEY, table["raw_id"]).to_pandas()
        frame[SEEN] = [np.diff(row, prepend=0) for row in frame[SEEN]]
        frame["event_timestamp"] = pd.Timestamp(datetime.fromtimestamp(etl.metrics["as_of"], UTC))
        store.write_to_online_store(VIEW, frame)
        return store

    return write
