"""A toy world with a known answer: every user has all of their circle's items but one."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.artifact import Artifact, open_artifact, writing
from features.etl import EtlConfig
from features.etl import run as run_etl
from features.logs import FeatureColumns, Logs
from features.logs.quarantine import Quarantine

NUM_CIRCLES, CIRCLE_ITEMS, CIRCLE_USERS = 4, 8, 40
DAY_SECONDS = 86_400


def withheld(user: int) -> int:
    """The one item of the user's circle that the user does not have."""
    circle = user // CIRCLE_USERS
    return circle * CIRCLE_ITEMS + user % CIRCLE_ITEMS


@pytest.fixture(scope="session")
def toy_logs() -> Logs:
    """Row u is user u, row i is item i."""
    random = np.random.default_rng(0)
    pairs = [
        (user, circle_item)
        for user in range(NUM_CIRCLES * CIRCLE_USERS)
        for circle_item in range(user // CIRCLE_USERS * CIRCLE_ITEMS, (user // CIRCLE_USERS + 1) * CIRCLE_ITEMS)
        if circle_item != withheld(user)
    ]
    user, item = random.permutation(np.array(pairs)).T
    begin = np.sort(random.integers(0, 100 * DAY_SECONDS, len(user)))
    user_name, item_name = (np.char.zfill(row.astype(str), 3) for row in (user, item))
    nothing = FeatureColumns((), (), ())
    return Logs(
        interactions=pa.table({"user_id": user_name, "item_id": item_name, "timestamp": begin}),
        users=pa.table({"user_id": np.unique(user_name)}),
        items=pa.table({"item_id": np.unique(item_name), "title": [""] * (NUM_CIRCLES * CIRCLE_ITEMS)}),
        user_features=nothing,
        item_features=nothing,
        quarantine=Quarantine().to_table(),
        rows_read={},
        rows_dropped={},
    )


@pytest.fixture(scope="session")
def make_etl(tmp_path_factory: pytest.TempPathFactory) -> Callable[[Logs], Artifact]:
    def make(logs: Logs) -> Artifact:
        config, folder = EtlConfig(history_length=10), tmp_path_factory.mktemp("toy") / "etl"
        with writing(folder, "etl", asdict(config), 0, {}) as writer:
            run_etl(config, logs, writer)
        return open_artifact(folder, "etl")

    return make


@pytest.fixture(scope="session")
def toy_etl(make_etl: Callable[[Logs], Artifact], toy_logs: Logs) -> Artifact:
    return make_etl(toy_logs)


@pytest.fixture(scope="session")
def opened(small_run: Path) -> Callable[[str], Artifact]:
    """Artifacts of the small run, by stage."""
    return lambda stage: open_artifact(small_run / stage, stage)
