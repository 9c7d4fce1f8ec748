"""A world with categories and prices of interactions, its etl artifact, and a version's folder."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.artifact import Artifact
from features.live.event import Event
from features.live.target import ITEMS, STORE
from features.logs import InteractionColumns, Logs
from features.online_store import OnlineStoreConfig, write_online_store

CHANNELS = ("app", "shop", "web")


@pytest.fixture(scope="session")
def live_logs(logs: Logs) -> Logs:
    rng = np.random.default_rng(3)
    num_events = len(logs.interactions)
    channel = pa.array([[*CHANNELS, None][place] for place in rng.integers(0, 4, num_events)], pa.string())
    interactions = logs.interactions.append_column("channel", channel)
    interactions = interactions.append_column("price", pa.array(rng.uniform(1, 9, num_events).round(2)))
    return replace(logs, interactions=interactions, interaction_columns=InteractionColumns(True, ("channel",)))


@pytest.fixture(scope="session")
def live_etl(make_etl: Callable[..., Artifact], live_logs: Logs) -> Artifact:
    return make_etl(live_logs)


@pytest.fixture
def make_version(live_etl: Artifact, tmp_path: Path) -> Callable[..., Path]:
    """The name of a version, and a store's configuration, to its folder."""

    def make(name: str = "1", config: OnlineStoreConfig | None = None) -> Path:
        folder = tmp_path / "models" / "cascade" / name
        (folder / ITEMS).parent.mkdir(parents=True)
        (folder / ITEMS).symlink_to(live_etl.file("items.parquet"))
        write_online_store(folder / STORE, live_etl, config)
        return folder

    return make


@pytest.fixture
def columns_of() -> Callable[[Sequence[Event]], list[list]]:
    """Events to the columns that callers send."""

    def columns(events: Sequence[Event]) -> list[list]:
        names = ("event_id", "user_id", "item_id", "timestamp", "attributes")
        return [[getattr(event, name) for event in events] for name in names]

    return columns
