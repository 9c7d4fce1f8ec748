"""How many users a second go into Feast's online store, and how long does a request wait for one? Ours against Feast's.

Feast writes with `write_to_online_store` and reads with `get_online_features`; ours is `features.online_store`, on the
same users, and Feast must read the same values from both. SQLite, and a real Redis where redis-server is installed.
Prints one JSON line a question. python benchmarks/online_store.py [NUM_USERS]
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from feast import FeatureStore
from merlin.schema import ColumnSchema, Schema, Tags

from features.artifact import Artifact
from features.list_column import list_column
from features.online_store import OnlineStore, OnlineStoreConfig, write_online_store
from features.schema import load_schema, save_schema
from features.store.past_events import PastEvents
from features.store.repository import KEY, PAST, SEEN, VIEW, create_repository, project_name, repo_config
from features.store.value_bytes import steps
from features.store.write import feature_names

GOAL = 50_000
"""Users a second."""
NUM_RUNS, NUM_READS, NUM_CHECKED = 3, 500, 500
USERS_OF_FEAST = 5_000
"""Feast writes a few thousand users a second: more of them would only take longer."""
LENGTH, NUM_ITEMS, AS_OF = 50, 20_000, 1_700_000_000


def main(num_users: int) -> None:
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as temporary:
        root = Path(temporary)
        many = etl_of(root / "many", num_users)
        few = etl_of(root / "few", min(num_users, USERS_OF_FEAST))
        compare("SQLite", root, many, few, OnlineStoreConfig(), lambda: None)
        if shutil.which("redis-server") is None:
            print("no redis-server on the PATH: Redis is not measured", file=sys.stderr)
            return
        with redis_server(root) as (address, empty):
            compare("Redis", root, many, few, OnlineStoreConfig(type="redis", redis=address), empty)


def compare(
    store: str, root: Path, many: Artifact, few: Artifact, config: OnlineStoreConfig, empty: Callable[[], object]
) -> None:
    """Print this store's lines. `empty` removes what lies outside the folders."""
    ours, feasts, waits = [], [], {"ours": 0.0, "feast": 0.0}
    for run in range(NUM_RUNS):
        folder = root / f"{store}-{run}"
        empty()
        begun = time.perf_counter()
        write_online_store(folder / "ours", many, config)
        ours.append(many.metrics["num_users"] / (time.perf_counter() - begun))
        if run == 0:
            waits = read_waits(folder / "ours", many)
        shutil.rmtree(folder / "ours")
        empty()
        feasts.append(few.metrics["num_users"] / feast_seconds(folder / "feast", few, config))
        if run == 0:
            theirs = answer_of(folder / "feast", few)
            empty()
            write_online_store(folder / "ours", few, config)
            assert answer_of(folder / "ours", few) == theirs, f"{store}: Feast reads other values from the bulk load"
        shutil.rmtree(folder)
    size, rate, peer = many.metrics["num_users"], float(np.median(ours)), float(np.median(feasts))
    say(f"users/s into {store}, in bulk against the goal", rate, GOAL, "users/s", "higher", size, NUM_RUNS)
    say(f"users/s into {store}, in bulk against Feast's own write", rate, peer, "users/s", "higher", size, NUM_RUNS)
    say(f"p50 of reading one user from {store}", waits["ours"], waits["feast"], "ms", "lower", size, NUM_READS)


def feast_seconds(folder: Path, etl: Artifact, config: OnlineStoreConfig) -> float:
    """What Feast's own write takes, from a frame in memory and a store that is open already."""
    table = pq.read_table(etl.file("users.parquet"))
    features = table.select(feature_names(etl)).drop_columns(SEEN)
    features = features.append_column(SEEN, steps(table[SEEN].combine_chunks()))
    features = features.append_column(PAST, PastEvents(etl, LENGTH).column(0, len(table)))
    store = FeatureStore(config=create_repository(folder, config, project_name(config, etl), features.schema))
    frame = features.append_column(KEY, table["raw_id"]).to_pandas()
    frame["event_timestamp"] = pd.Timestamp(datetime.fromtimestamp(AS_OF, UTC))
    begun = time.perf_counter()
    store.write_to_online_store(VIEW, frame)
    return time.perf_counter() - begun


def read_waits(folder: Path, etl: Artifact) -> dict[str, float]:
    """Median milliseconds of one user, by OnlineStore and by Feast's API, in turn."""
    ours, store = OnlineStore(folder, load_schema(etl.file("schema.json"))), FeatureStore(config=repo_config(folder))
    wanted = [f"{VIEW}:{name}" for name in feature_names(etl)]
    users = pq.read_table(etl.file("users.parquet"), columns=["raw_id"])["raw_id"]
    taken: dict[str, list[float]] = {"ours": [], "feast": []}
    for place in np.random.default_rng(0).integers(0, len(users), NUM_READS):
        user = users[int(place)].as_py()
        begun = time.perf_counter()
        ours.read([user])
        between = time.perf_counter()
        store.get_online_features(wanted, [{KEY: user}]).to_dict()
        taken["ours"].append(between - begun)
        taken["feast"].append(time.perf_counter() - between)
    return {name: float(np.median(times)) * 1e3 for name, times in taken.items()}


def answer_of(folder: Path, etl: Artifact) -> dict:
    """What Feast answers for some of the users."""
    users = pq.read_table(etl.file("users.parquet"))["raw_id"].to_pylist()[:NUM_CHECKED]
    wanted = [f"{VIEW}:{name}" for name in feature_names(etl)]
    store = FeatureStore(config=repo_config(folder))
    return store.get_online_features(wanted, [{KEY: user} for user in users]).to_dict()


def etl_of(folder: Path, num_users: int) -> Artifact:
    """What the store needs of an etl artifact: users with the demo's features and some 15 interactions each."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    num_events = np.minimum(rng.geometric(1 / 15, num_users) - 1, 400)
    history = rng.integers(3, NUM_ITEMS, (num_users, LENGTH))
    history[np.arange(LENGTH) >= num_events[:, None]] = 0
    ends = np.concatenate([[0], np.cumsum(num_events)])
    user_row, item_row = np.repeat(np.arange(num_users), num_events), rng.integers(0, NUM_ITEMS, ends[-1])
    item_row = item_row[np.lexsort((item_row, user_row))]  # ascending, as the etl stage has what a user had
    columns = {
        "raw_id": pa.array(f"customer-{number:08d}" for number in range(num_users)),
        "user_id": rng.integers(2, num_users + 3, num_users),
        "user_club_member_status": rng.integers(1, 6, num_users),
        "user_fashion_news_frequency": rng.integers(1, 6, num_users),
        "user_age": ((rng.integers(16, 90, num_users) - 40) / 13).astype(np.float32),
        "history": list_column(history),
        "user_num_events": (np.log1p(num_events) - 2).astype(np.float32),
        "num_events": num_events,
        "last_timestamp": np.where(num_events > 0, AS_OF - rng.integers(1, 10**7, num_users), -1),
        "seen": pa.LargeListArray.from_arrays(pa.array(ends), pa.array(item_row)),
    }
    pq.write_table(pa.table(columns), folder / "users.parquet")
    features = [name for name in columns if name.startswith("user_") or name == "history"]
    save_schema(Schema([_feature(name, num_users) for name in features]), folder / "schema.json")
    events = {"user_row": user_row, "item_row": item_row, "timestamp": np.arange(AS_OF - ends[-1], AS_OF)}
    pq.write_table(pa.table(events), folder / "events.parquet")
    (folder / "online.json").write_text('{"user_num_events": [2.0, 1.0]}')
    parts = {name: {} for name in ("users.parquet", "schema.json", "events.parquet", "online.json")}
    manifest = {"stage": "etl", "content_hash": "00" * 32, "parts": parts, "config": {"history_length": LENGTH}}
    columns_of_interactions = {"price": False, "categorical": []}
    metrics = {"as_of": AS_OF, "num_users": num_users, "interaction_columns": columns_of_interactions}
    return Artifact(folder, manifest | {"metrics": metrics})


def _feature(name: str, num_users: int) -> ColumnSchema:
    if name in ("user_age", "user_num_events"):
        return ColumnSchema(name, dtype=np.float32, tags=[Tags.USER, Tags.CONTINUOUS])
    domain = {"domain": {"min": 0, "max": max(num_users, NUM_ITEMS) + 3}}
    dims = (None, LENGTH) if name == "history" else (None,)
    return ColumnSchema(name, dtype=np.int64, dims=dims, tags=[Tags.USER, Tags.CATEGORICAL], properties=domain)


@contextmanager
def redis_server(folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Address of an empty Redis without persistence, and what empties it again."""
    from redis import Redis
    from redis.exceptions import ConnectionError as RedisDownError

    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    process = subprocess.Popen([*command, "--save", "", "--appendonly", "no"], stdout=subprocess.DEVNULL)
    client = Redis(host="127.0.0.1", port=port)
    try:
        while process.poll() is None:
            try:
                client.ping()
                break
            except RedisDownError:
                time.sleep(0.02)
        yield f"127.0.0.1:{port}", client.flushall
    finally:
        client.close()
        process.terminate()
        process.wait()


def say(question: str, ours: float, peer: float, unit: str, better: str, size: int, runs: int) -> None:
    ratio = ours / peer
    line = {"benchmark": "online_store", "question": question, "ours": round(ours, 3), "peer": round(peer, 3)}
    line |= {"unit": unit, "ratio": round(ratio, 3), "goal": 1.0, "better": better}
    line |= {"met": ratio >= 1.0 if better == "higher" else ratio <= 1.0, "size": size, "runs": runs}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 200_000)
