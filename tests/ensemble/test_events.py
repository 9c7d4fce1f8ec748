"""Live events on a real Triton: what is pushed is in the next slate, and what was accepted outlives a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pyarrow.parquet as pq
import pytest

from ensemble.client import RecommendClient, RequestError
from ensemble.config import ServingConfig
from ensemble.events_repository import JOURNAL_FILE
from ensemble.rollout import prepared_repository
from ensemble.server import TritonServer
from features.errors import CascadeError
from features.live.journal import Journal
from features.live.target import STORE
from features.online_store import OnlineStore
from features.schema import load_schema

pytestmark = pytest.mark.triton


@pytest.fixture(scope="module")
def run(small_run, tmp_path_factory) -> Path:
    """A run with the small run's export and a serve folder of its own."""
    out = tmp_path_factory.mktemp("live") / "run"
    shutil.copytree(small_run, out, ignore=shutil.ignore_patterns("serve"))
    return out


@pytest.fixture(scope="module")
def server(run):
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, ready_timeout_seconds=180)
    (run / "serve").mkdir()
    repository = prepared_repository(run, run / "serve", config)
    with TritonServer(repository.folder, run / "serve", config) as server:
        yield server


@pytest.fixture(scope="module")
def users(run):
    table = pq.read_table(run / "etl/users.parquet", columns=["raw_id", "num_events"])
    return table["raw_id"].filter(np.asarray(table["num_events"]) > 0).to_pylist()


@pytest.fixture(scope="module")
def now(run):
    return json.loads((run / "etl/manifest.json").read_text())["metrics"]["as_of"] + 3_600


def store_of(run):
    (version,) = [path for path in (run / "serve/releases").iterdir() if (path / STORE).is_dir()]
    return OnlineStore(version / STORE, load_schema(run / "etl/schema.json"))


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_the_next_slate_reflects_what_was_pushed(protocol, server, client, users, now, run):
    user = users[5 if protocol == "grpc" else 6]
    before = client.recommend([user], k=20, timestamp=now)
    item = before.item_ids[0, 0]
    known = store_of(run).read([user])
    with RecommendClient(getattr(server, f"{protocol}_url"), protocol, timeout_seconds=60) as pusher:
        begun = time.monotonic()
        assert pusher.push_events([f"{protocol}-1"], [user], [item], [now - 60]).tolist() == ["accepted"]
        after = client.recommend([user], k=20, timestamp=now)
        seconds = time.monotonic() - begun
    assert seconds < 1
    assert item not in after.item_ids[0]
    shared = set(before.item_ids[0]) & set(after.item_ids[0])
    scores = [
        {item: score for item, score in zip(reply.item_ids[0], reply.scores[0], strict=True) if item in shared}
        for reply in (before, after)
    ]
    assert scores[0] != scores[1]  # the query vector and the ranker's view of the user have changed
    read = store_of(run).read([user])
    assert read.num_events[0] == known.num_events[0] + 1 and read.last_timestamp[0] == now - 60
    assert read.features["history"][0].tolist() != known.features["history"][0].tolist()


def test_a_new_user_becomes_known(client, now, run):
    assert client.recommend(["just born"], timestamp=now).source.tolist() == ["fallback"]
    item = client.recommend(["just born"], timestamp=now).item_ids[0, 0]
    assert client.push_events(["born"], ["just born"], [item], [now]).tolist() == ["accepted"]
    after = client.recommend(["just born"], timestamp=now + 60)
    assert after.source.tolist() == ["personal"] and item not in after.item_ids[0]


def test_every_event_gets_its_own_status(server, client, users, now, run):
    item = pq.read_table(run / "etl/items.parquet", columns=["raw_id"])["raw_id"][0].as_py()
    statuses = client.push_events(
        ["a", "a", "b", "c", "d", "", "e" * 300, "f", "g"],
        [users[0], users[1], users[0], users[0], "", "u", "u", users[2], users[3]],
        [item, item, item, "no such item", item, item, item, item, item],
        [now, now, now, now, now, now, now, now * 1_000, now],
        [None, None, None, None, None, None, None, None, {"weather": "fine"}],
    ).tolist()
    assert statuses[:4] == ["accepted", "duplicate", "duplicate", "unknown_item"]
    assert [status.split(":")[0] for status in statuses[4:]] == ["rejected"] * 5
    for status, reason in zip(
        statuses[4:], ["user_id", "event_id", "event_id", "milliseconds", "weather"], strict=True
    ):
        assert reason in status
    wanted = ["cascade_events_total{", 'status="unknown_item"', "cascade_event_stores_behind{"]
    until = time.monotonic() + 10
    while not all(word in (published := urllib.request.urlopen(server.metrics_url).read().decode()) for word in wanted):
        assert time.monotonic() < until, published
        time.sleep(0.2)
    with pytest.raises(RequestError, match="timestamp row 0 must be whole Unix seconds"):
        client.push_events(["h"], ["u"], [item], ["yesterday"])
    with pytest.raises(RequestError, match="user_id must have one entry"):
        client.push_events(["h"], ["u", "v"], [item], [now])


def events_process(server) -> int:
    """Pid of the model process of `cascade_events`."""
    found = [
        process.pid
        for process in psutil.Process(server.pid).children(recursive=True)
        if any("cascade_events" in word for word in process.cmdline())
    ]
    assert len(found) == 1, found
    return found[0]


def test_the_command_sends_files_and_streams(server, users, now, run, tmp_path):
    items = pq.read_table(run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    lines = [
        json.dumps({"event_id": f"file-{n}", "user_id": users[10], "item_id": items[n], "timestamp": (now + n) * 1_000})
        for n in range(30)
    ]
    (tmp_path / "events.jsonl").write_text("\n".join([*lines, "{broken"]))
    rows = [json.loads(line) for line in lines[:5]]
    header = ",".join(rows[0])
    (tmp_path / "events.csv").write_text("\n".join([header, *(",".join(map(str, row.values())) for row in rows)]))

    def push(file, stdin=None):
        command = [sys.executable, "-m", "pipelines", "events", "push", str(file), "--url", server.grpc_url]
        command += ["--timestamp-unit", "ms", "--batch-size", "7"]
        return subprocess.run(command, capture_output=True, text=True, input=stdin)

    first = push(tmp_path / "events.jsonl")
    assert first.returncode == 1 and "30 accepted" in first.stdout and "line 31: must be a JSON object" in first.stderr
    again = push("-", "\n".join(lines))
    assert again.returncode == 0 and "30 duplicate" in again.stdout, again.stderr
    table = push(tmp_path / "events.csv")
    assert table.returncode == 0 and "5 duplicate" in table.stdout, table.stderr
    assert store_of(run).read([users[10]]).last_timestamp[0] == now + 29


def test_what_was_accepted_outlives_a_kill_in_the_middle(server, users, now, run):
    """Last: it takes the events process down, and afterwards the server."""
    items = pq.read_table(run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    acknowledged, number = [], 0
    pid = events_process(server)
    with RecommendClient(server.grpc_url, timeout_seconds=5) as client:
        until = time.monotonic() + 1.0
        while number < 20_000:
            if time.monotonic() > until:
                os.kill(pid, signal.SIGKILL)
                until = float("inf")
            batch = range(number, number + 16)
            number += 16
            sent = (users[20 + n % 7] for n in batch)
            events = [(f"kill-{n}", user, items[n % len(items)], now + n) for n, user in zip(batch, sent, strict=True)]
            try:
                statuses = client.push_events(*(list(column) for column in zip(*events, strict=True)))
            except CascadeError:
                break
            acknowledged += [event for event, status in zip(events, statuses, strict=True) if status == "accepted"]
    assert acknowledged and number < 20_000
    server.stop()
    with Journal(run / "serve" / JOURNAL_FILE) as journal:
        journaled = {event.event_id for event in journal.after(0, 10**9)[0]}
    assert {event_id for event_id, *_ in acknowledged} <= journaled
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, ready_timeout_seconds=180)
    repository = prepared_repository(run, run / "serve", config)
    with TritonServer(repository.folder, run / "serve", config):
        read = store_of(run).read(users[20:27])
        for place, user in enumerate(users[20:27]):
            own = [event for event in acknowledged if event[1] == user]
            had = set(read.seen[place].tolist())
            assert {items.index(item) for _, _, item, _ in own} <= had
            assert read.last_timestamp[place] >= max(moment for *_, moment in own)
