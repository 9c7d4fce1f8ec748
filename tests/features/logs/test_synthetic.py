"""Adapter `synthetic`: the world is the same for the same seed, has what real shops have, and can be learned."""

import hashlib

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from features.logs import DataConfig, Logs, read_logs
from features.logs.synthetic import SyntheticConfig, World, make_world, synthetic_logs

SMALL = SyntheticConfig(num_users=1500, num_items=600, num_interactions=40_000)
DAY_SECONDS = 86_400


@pytest.fixture(scope="module")
def logs() -> Logs:
    return synthetic_logs(SMALL)


@pytest.fixture(scope="module")
def world() -> World:
    return make_world(SMALL)


def digest(logs: Logs) -> str:
    sink = hashlib.sha256()
    for table in (logs.interactions, logs.users, logs.items):
        stream = pa.BufferOutputStream()
        with pa.ipc.new_stream(stream, table.schema) as writer:
            writer.write_table(table)
        sink.update(stream.getvalue())
    return sink.hexdigest()


def rows_of(ids: pa.ChunkedArray, all_ids: pa.ChunkedArray) -> np.ndarray:
    return pc.index_in(ids, all_ids).to_numpy()


def test_the_same_seed_gives_the_same_tables_and_another_seed_others(logs: Logs) -> None:
    assert digest(synthetic_logs(SMALL)) == digest(logs)
    other = SyntheticConfig(num_users=1500, num_items=600, num_interactions=40_000, seed=2)
    assert digest(synthetic_logs(other)) != digest(logs)


def test_more_interactions_leave_users_and_items_as_they_are(logs: Logs) -> None:
    more = synthetic_logs(SyntheticConfig(num_users=1500, num_items=600, num_interactions=41_000))
    assert more.users.equals(logs.users)
    assert more.items.equals(logs.items)


def test_the_default_config_passes_the_checks_and_has_the_asked_size() -> None:
    config = SyntheticConfig(num_users=300, num_items=100, num_interactions=3000, num_days=60)
    logs = read_logs(DataConfig(synthetic=config))
    assert (logs.users.num_rows, logs.items.num_rows, logs.interactions.num_rows) == (300, 100, 3000)
    assert logs.rows_read == {"interactions": 3000, "users": 300, "items": 100}


@pytest.mark.parametrize("seed", range(3))
def test_the_smallest_world_is_made(seed: int) -> None:
    config = SyntheticConfig(num_users=10, num_items=50, num_interactions=100, num_days=14, seed=seed)
    assert synthetic_logs(config).interactions.num_rows == 100


def test_the_tables_follow_the_contract(logs: Logs) -> None:
    assert logs.interactions.schema.types == [pa.string(), pa.string(), pa.int64()]
    assert set(logs.users.column_names) == {"user_id", *logs.user_features.names}
    assert set(logs.items.column_names) == {"item_id", "title", *logs.item_features.names}
    assert pc.count_distinct(logs.users["user_id"]).as_py() == SMALL.num_users
    assert pc.count_distinct(logs.items["item_id"]).as_py() == SMALL.num_items
    assert all(len(item_id) == 10 and item_id[0] == "0" for item_id in logs.items["item_id"].to_pylist())
    times = logs.interactions["timestamp"].to_numpy()
    assert (np.diff(times) >= 0).all()


def test_no_article_sells_before_its_launch_and_no_customer_buys_before_joining(logs: Logs, world: World) -> None:
    day = (
        logs.interactions["timestamp"].to_numpy()
        - logs.interactions["timestamp"][0].as_py() // DAY_SECONDS * DAY_SECONDS
    )
    day = day // DAY_SECONDS
    item = rows_of(logs.interactions["item_id"], logs.items["item_id"])
    user = rows_of(logs.interactions["user_id"], logs.users["user_id"])
    assert (day >= world.launch_day[item]).all()
    assert (day >= world.join_day[user]).all()


def test_the_world_has_what_shops_have(logs: Logs) -> None:
    user = rows_of(logs.interactions["user_id"], logs.users["user_id"])
    item = rows_of(logs.interactions["item_id"], logs.items["item_id"])
    time = logs.interactions["timestamp"].to_numpy()
    cut = np.quantile(time, 0.9)
    assert len(np.unique(user)) < SMALL.num_users, "some customers never buy"
    assert set(user[time > cut]) - set(user[time <= cut]), "some customers are new at the end"
    assert set(item[time > cut]) - set(item[time <= cut]), "some articles are new at the end"
    purchases = np.sort(np.bincount(user, minlength=SMALL.num_users))[::-1]
    assert purchases[:150].sum() > 0.3 * len(user), "a tenth of the customers buys a third"
    sales = np.sort(np.bincount(item, minlength=SMALL.num_items))[::-1]
    assert sales[:60].sum() > 0.25 * len(item), "a tenth of the articles makes a quarter"
    visits = len(np.unique(user * (1 << 40) + time))
    assert len(user) > 2 * visits, "a basket holds several articles"
    repeats = 1 - len(np.unique(user * SMALL.num_items + item)) / len(user)
    assert 0.02 < repeats < 0.15
    for column in ("age", "club_member_status", "fashion_news_frequency"):
        assert logs.users[column].null_count > 0


def test_taste_beats_popularity_clearly_and_is_not_trivial(logs: Logs, world: World) -> None:
    user = rows_of(logs.interactions["user_id"], logs.users["user_id"])
    item = rows_of(logs.interactions["item_id"], logs.items["item_id"])
    time = logs.interactions["timestamp"].to_numpy()
    is_test = time > time[0] + 0.9 * (time[-1] - time[0])
    popularity = np.bincount(item[~is_test], minlength=SMALL.num_items)
    liking = world.user_taste @ world.item_taste.T + world.log_demand(int(0.95 * SMALL.num_days))
    taste_hits, popular_hits = [], []
    for one in np.unique(user[is_test]):
        wanted = np.unique(item[is_test & (user == one)])
        taste_hits.append(np.isin(wanted, np.argsort(-liking[one])[:20]).mean())
        popular_hits.append(np.isin(wanted, np.argsort(-popularity)[:20]).mean())
    assert np.mean(taste_hits) > 2 * np.mean(popular_hits)
    assert np.mean(taste_hits) < 0.6
