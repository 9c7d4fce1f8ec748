"""A toy world with a known answer: every user has all of their circle's items but one.

Beside it a small random past, users of every kind who ask after it, and every candidate source fitted on it.
"""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from features.artifact import Artifact, open_artifact, writing
from features.etl import EtlConfig
from features.etl import run as run_etl
from features.item_content import ItemContent, one_hot, tf_idf
from features.logs import FeatureColumns, Logs
from features.logs.quarantine import Quarantine
from retrieval.config import IndexConfig
from retrieval.index import build
from retrieval.sources import (
    CandidateSource,
    CategoryPopularity,
    Covisitation,
    Linear,
    NewItems,
    Past,
    RecentPopularity,
    RepeatPurchase,
    SimilarContent,
    TwoTowerSource,
    Users,
)

NUM_CIRCLES, CIRCLE_ITEMS, CIRCLE_USERS = 4, 8, 40
DAY_SECONDS = 86_400
NUM_USERS, NUM_ITEMS, NUM_EVENTS, NUM_NEW = 40, 30, 600, 4
"""Of the random past."""
HISTORY_LENGTH = 12
NO_ITEM = -1


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


@pytest.fixture(scope="session")
def past() -> Past:
    """People of three clubs and all ages who have items again and again; nobody had the last NUM_NEW items."""
    random = np.random.default_rng(0)
    words = ["red", "blue", "green", "shirt", "shoe", "hat"]
    texts = [" ".join(random.choice(words, 3)) for _ in range(NUM_ITEMS)]
    content = ItemContent({"colour": one_hot(pa.array(random.integers(0, 4, NUM_ITEMS)))}, tf_idf(texts))
    by_taste = random.integers(0, NUM_ITEMS - NUM_NEW, NUM_EVENTS)
    return Past(
        user_row=random.integers(0, NUM_USERS - 3, NUM_EVENTS),
        item_row=np.minimum(by_taste, random.permutation(by_taste)),  # the first items are the popular ones
        timestamp=np.sort(random.integers(0, 60 * DAY_SECONDS, NUM_EVENTS)) + 1_700_000_000,
        num_users=NUM_USERS,
        num_items=NUM_ITEMS,
        users={
            "user_club": random.integers(1, 4, NUM_USERS),
            "user_age": random.normal(size=NUM_USERS).astype(np.float32),
        },
        may_repeat=True,
        content=content,
    )


@pytest.fixture(scope="session")
def item_vectors() -> np.ndarray:
    """[I, 4] float32, no two alike."""
    return np.random.default_rng(1).normal(size=(NUM_ITEMS, 4)).astype(np.float32)


@pytest.fixture(scope="session")
def users(past: Past) -> Users:
    """All users of the past, each with their latest items, some of which the log does not know by now.

    The last three have an empty history; every second user has forbidden items, one all of the catalogue.
    """
    random = np.random.default_rng(2)
    history_BN = np.full((NUM_USERS, HISTORY_LENGTH), NO_ITEM)
    for user in range(NUM_USERS):
        newest = past.item_row[past.user_row == user][::-1][:HISTORY_LENGTH]
        history_BN[user, : len(newest)] = newest
    history_BN[3, ::2] = NO_ITEM  # every other item is unknown
    history_BN[4] = NO_ITEM  # all of them are
    forbidden_BS = np.full((NUM_USERS, NUM_ITEMS), NO_ITEM)
    for user in range(0, NUM_USERS, 2):
        num = random.integers(1, 12)
        forbidden_BS[user, :num] = random.choice(NUM_ITEMS, num, replace=False)
    forbidden_BS[6] = np.arange(NUM_ITEMS)
    query_BE = random.normal(size=(NUM_USERS, 4)).astype(np.float32)
    return Users(dict(past.users), history_BN, forbidden_BS, query_BE)


@pytest.fixture(scope="session")
def sources(past: Past, item_vectors: np.ndarray) -> dict[str, CandidateSource]:
    """Every source by name."""
    index = build(item_vectors, IndexConfig(kind="flat"))
    fitted = [
        RecentPopularity(7.0, shrinkage=5.0).fit(past),
        CategoryPopularity(7.0, "colour").fit(past),
        Covisitation(20.0).fit(past),
        RepeatPurchase().fit(past),
        SimilarContent(0.5).fit(past),
        Linear(3.0).fit(past),
    ]
    searching = [TwoTowerSource(index), NewItems.of(index, past.num_events == 0)]
    return {source.name: source for source in [*searching, *fitted]}
