"""Events that were accepted reach every store, whatever happens to the stores in between."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.live.config import EventsConfig
from features.live.event import Event
from features.live.intake import Intake, NoVersionError
from features.live.journal import Journal, JournalError
from features.live.target import STORE, replay
from features.online_store import OnlineStore, OnlineStoreConfig, write_online_store
from features.schema import load_schema

CONFIG = EventsConfig(retry_seconds=0.02)
KILLED = """
import sys
from pathlib import Path
from features.live.config import EventsConfig
from features.live.intake import Intake
models, journal, user, moment, *items = sys.argv[1:]
with Intake(Path(models), Path(journal), EventsConfig()) as intake:
    for number in range(100_000):
        columns = [[f"e{number}-{n}"] for n in range(3)]
        ids = [f"e{number}-{n}" for n in range(3)]
        moments = [int(moment) + 3 * number + n for n in range(3)]
        chosen = [items[(3 * number + n) % len(items)] for n in range(3)]
        statuses = intake.push([ids, [user] * 3, chosen, moments, [None] * 3])
        print(*(one for one, status in zip(ids, statuses) if status == "accepted"), flush=True)
"""


@pytest.fixture(scope="module")
def schema(live_etl):
    return load_schema(live_etl.file("schema.json"))


@pytest.fixture(scope="module")
def items(live_etl):
    return pq.read_table(live_etl.file("items.parquet"), columns=["raw_id"])["raw_id"].to_pylist()


@pytest.fixture(scope="module")
def users(live_etl):
    return pq.read_table(live_etl.file("users.parquet"), columns=["raw_id"])["raw_id"].to_pylist()


@pytest.fixture
def make_events(users, items, live_etl):
    """A name and a number of events to columns of them, all after the log's end and no two alike."""

    def make(name, num_events):
        moments = [live_etl.metrics["as_of"] + 10 * n for n in range(num_events)]
        user = [users[n % 7] for n in range(num_events)]
        chosen = [items[n % len(items)] for n in range(num_events)]
        return [[f"{name}{n}" for n in range(num_events)], user, chosen, moments, [None] * num_events]

    return make


def wait_until(condition, seconds=20):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not come about"
        time.sleep(0.01)


def live_counts(folder, schema, users, etl):
    """Interactions of each user beyond the log's."""
    table = pq.read_table(etl.file("users.parquet"), columns=["raw_id", "num_events"])
    past = dict(zip(*(column.to_pylist() for column in table.columns), strict=True))
    return [
        int(number) - past[user]
        for number, user in zip(OnlineStore(folder / STORE, schema).read(users).num_events, users, strict=True)
    ]


def test_a_redis_that_is_down_keeps_nobody_from_pushing(
    make_version, redis_server, make_events, live_etl, schema, users, tmp_path
):
    config = OnlineStoreConfig(type="redis", redis=redis_server.address)
    version = make_version("1", config)
    events = make_events("e", 21)
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        assert set(intake.push([column[:7] for column in events])) == {"accepted"}
        redis_server.stop()
        begun = time.monotonic()
        assert set(intake.push([column[7:14] for column in events])) == {"accepted"}
        wait_until(lambda: intake.behind)
        assert set(intake.push([column[14:] for column in events])) == {"accepted"}
        assert time.monotonic() - begun < 3
        redis_server.start()  # empty: it kept nothing on the disk
        wait_until(lambda: "does not hold the users" in str(intake.behind))
        shutil.rmtree(version / STORE)
        write_online_store(version / STORE, live_etl, config)
        wait_until(lambda: live_counts(version, schema, users[:7], live_etl) == [3] * 7)
        wait_until(lambda: not intake.behind)


def test_two_servers_write_the_same_users_of_one_redis(
    make_version, redis_server, make_events, live_etl, schema, users, tmp_path
):
    config = OnlineStoreConfig(type="redis", redis=redis_server.address)
    version = make_version("1", config)
    own = [make_events("e", 120), make_events("e", 120)]
    halves = [[column[place::2] for column in own[place]] for place in (0, 1)]
    halves = [[[*half[c], *own[0][c][:20]] for c in range(5)] for half in halves]  # and 20 that both get
    statuses: list[str] = []

    def serve(place):
        with Intake(tmp_path / "models/cascade", tmp_path / f"events{place}.db", CONFIG) as intake:
            for begin in range(0, len(halves[place][0]), 5):
                statuses.extend(intake.push([column[begin : begin + 5] for column in halves[place]]))
            wait_until(lambda: not intake.behind)
            time.sleep(0.1)

    threads = [threading.Thread(target=serve, args=[place]) for place in (0, 1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert set(statuses) == {"accepted", "duplicate"}
    expected = np.bincount([users.index(user) for user in own[0][1]], minlength=7).tolist()
    assert live_counts(version, schema, users[:7], live_etl) == expected


def test_readers_see_whole_rows_while_events_come(make_version, make_events, schema, users, tmp_path):
    version = make_version()
    store, stop, problems = OnlineStore(version / STORE, schema), threading.Event(), []

    def read():
        while not stop.is_set():
            try:
                found = store.read(users[:7])
                counted = (found.seen[:, :] >= 0).sum(1)
                if not ((found.features["history"] > 0).sum(1) == np.minimum(found.num_events, 10)).all():
                    problems.append((found.num_events, counted))
            except Exception as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        for place in range(60):
            intake.push([[value] for value in (column[place] for column in make_events("e", 60))])
    stop.set()
    reader.join()
    assert not problems


def test_a_version_staged_later_gets_everything_by_itself(make_version, make_events, live_etl, schema, users, tmp_path):
    first = make_version("1")
    events = make_events("e", 21)
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        intake.push([column[:14] for column in events])
        second = make_version("2")
        wait_until(lambda: live_counts(second, schema, users[:7], live_etl) == [2] * 7)
        intake.push([column[14:] for column in events])
        wait_until(lambda: live_counts(second, schema, users[:7], live_etl) == [3] * 7)
        shutil.rmtree(first)
        assert intake.push(make_events("more", 1)) == ["duplicate"]
    assert live_counts(second, schema, users[:7], live_etl) == [3] * 7


def test_a_replay_does_the_same_at_once_and_any_number_of_times(
    make_version, make_events, live_etl, schema, users, tmp_path
):
    make_version("1")
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        intake.push(make_events("e", 14))
    second = make_version("2")
    assert replay(tmp_path / "events.db", second) == 14
    assert replay(tmp_path / "events.db", second) == 0
    assert replay(tmp_path / "no journal yet.db", second) == 0
    assert live_counts(second, schema, users[:7], live_etl) == [2] * 7


def test_events_that_the_log_has_by_now_are_left_out(make_version, make_events, live_etl, schema, users, tmp_path):
    version = make_version()
    as_of = live_etl.metrics["as_of"]
    ids, user, item, _, _ = make_events("e", 7)
    with Journal(tmp_path / "events.db") as journal:  # they came, as they happened, before the log was taken
        came = zip(ids, user, item, strict=True)
        journal.append([Event(*event, as_of - 60 - n, "{}", as_of - 50) for n, event in enumerate(came)])
    assert replay(tmp_path / "events.db", version) == 7
    assert live_counts(version, schema, users[:7], live_etl) == [0] * 7


def test_without_a_version_nothing_is_taken(tmp_path):
    (tmp_path / "models/cascade").mkdir(parents=True)
    models, journal = tmp_path / "models/cascade", tmp_path / "events.db"
    with Intake(models, journal, CONFIG) as intake, pytest.raises(NoVersionError, match="holds no version"):
        intake.push([["e"], ["u"], ["i"], [1], [None]])


def test_one_user_cannot_fill_the_journal(make_version, make_events, users, tmp_path):
    make_version()
    events = make_events("e", 6)
    events[1] = [users[0]] * 6
    config = replace(CONFIG, max_events_per_user=4)
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", config) as intake:
        statuses = intake.push(events)
    assert statuses[:4] == ["accepted"] * 4
    assert all("has 4 events of this user already" in status for status in statuses[4:])


def test_a_journal_that_cannot_be_written_accepts_nothing(make_version, make_events, tmp_path):
    make_version()
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        intake._journal._connection.execute("PRAGMA query_only=on")  # as a disk that has become read-only
        with pytest.raises(JournalError, match="nothing was accepted"):
            intake.push(make_events("e", 3))
        intake._journal._connection.execute("PRAGMA query_only=off")
        assert intake.push(make_events("e", 3)) == ["accepted"] * 3


def test_old_events_are_forgotten(make_version, make_events, tmp_path):
    with Journal(tmp_path / "events.db") as journal:
        journal.append([Event("old", "u", "i", 5, "{}", 10), Event("new", "u", "i", 6, "{}", 20)])
        assert journal.forget(15) == 1
        assert [event.event_id for event in journal.after(0, 9)[0]] == ["new"]
        assert journal.append([Event("later", "u", "i", 7, "{}", 30)]) == ["accepted"]
        assert journal.after(2, 9)[1] == 3  # numbers are never given twice


@pytest.mark.slow
def test_what_was_accepted_outlives_a_kill(make_version, live_etl, schema, items, users, tmp_path):
    version = make_version()
    arguments = [str(tmp_path / "models/cascade"), str(tmp_path / "events.db"), users[0]]
    moment = live_etl.metrics["as_of"]
    command = [sys.executable, "-c", KILLED, *arguments, str(moment), *items]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as pushing:
        assert pushing.stdout
        told = [pushing.stdout.readline() for _ in range(40)]
        os.kill(pushing.pid, signal.SIGKILL)
        told += pushing.stdout.readlines()
    accepted = {word for line in told if line.endswith("\n") for word in line.split()}
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        journaled = intake._journal.after(0, 10**6)[0]
        assert not intake.behind
    assert len(accepted) >= 100 and accepted <= {event.event_id for event in journaled}
    read = OnlineStore(version / STORE, schema).read(users[:1])
    assert {items.index(event.item_id) for event in journaled} <= set(read.seen[0].tolist())
    assert live_counts(version, schema, users[:1], live_etl) == [len(journaled)]


def test_attributes_reach_the_journal_as_they_came(make_version, users, items, live_etl, tmp_path):
    make_version()
    with Intake(tmp_path / "models/cascade", tmp_path / "events.db", CONFIG) as intake:
        attributes = json.dumps({"price": 3, "channel": "é"})
        moment = live_etl.metrics["as_of"]
        assert intake.push([["e"], [users[0]], [items[0]], [moment], [attributes.encode()]]) == ["accepted"]
        (event,) = intake._journal.after(0, 9)[0]
    assert event.values == {"price": 3, "channel": "é"}
