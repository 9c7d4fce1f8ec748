"""The request log: what a row says, which requests are in it, and that it never costs a request."""

import json
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.request import FEATURE_TIME, Reply, Request
from ensemble.request_log import RequestLog, SampledRequest, SampledRun
from ensemble.request_log_config import RequestLogConfig
from ensemble.request_rows import FORMAT_KEY, FORMAT_VERSION, RELEASE_KEY, SCHEMA, LoggedRelease, batches_of, kept
from ensemble.rotated_parquet import RotatedParquet
from ensemble.serving_metrics import Metrics
from ensemble.trace import Trace

NO_ITEM = -1
AS_OF = 1_700_000_000
RELEASE = LoggedRelease(
    version="3",
    seal=json.dumps({"as_of": AS_OF, "sha256": {"ranker.onnx": "ab"}}).encode(),
    item_ids=pa.array([f"item-{row}" for row in range(50)]),
    source_names=("two_tower", "new_items"),
    feature_names=("user_age", "history"),
)
ROWS, DROPPED = "cascade_request_log_rows_total", "cascade_request_log_dropped_rows_total"


@pytest.fixture
def counted(monkeypatch):
    """Reads how many rows were written, and dropped for which reason."""
    ours = Metrics()
    monkeypatch.setattr("ensemble.request_log.metrics", ours)
    return lambda: Counter({dict(one.labels).get("reason", one.name): n for one, n in ours.totals().items()})


def run_of(users, sampled=None, num_candidates=4, columns=True, seed=0, k=3):
    """A run with made columns; every user's are drawn from the seed and the place."""
    rng = np.random.default_rng(seed)
    size = len(users)
    request = Request.of(users, k, exclude=[["item-1"] * (row % 2) for row in range(size)], seed=7)
    candidate_row = rng.integers(0, 50, (size, num_candidates))
    candidate_row[:, -1] = NO_ITEM
    item_ids = np.array([[f"item-{item}" if item >= 0 else "" for item in row[:k]] for row in candidate_row], object)
    numbers = rng.random((size, item_ids.shape[1]), dtype=np.float32)
    nothing = np.empty((size, 0), object)
    reply = Reply(item_ids, numbers, numbers, np.full(size, "personal", object), nothing, nothing)
    made = {
        "user_age": rng.random(size, dtype=np.float32),
        "history": rng.integers(0, 50, (size, 5)),
        "removed_seen": rng.integers(-1, 50, (size, 3)),
        "removed_rule": rng.integers(0, 9, size),
        "proposed_row": rng.integers(-1, 50, (size, 2, 6)),
        "num_failed_sources": np.ones(size, np.int64),
        "candidate_row": candidate_row,
        "retrieval_score": rng.random(candidate_row.shape, dtype=np.float32),
        "score": rng.random(candidate_row.shape, dtype=np.float32),
    }
    trace = Trace({"EncodeQuery": 0.25, "OrderSlate": 0.5}, "OrderSlate", made if columns else {})
    sampled = sampled or [SampledRequest("r", "", slice(0, size))]
    return SampledRun(sampled, 2, 1_750_000_000.25, 0.75, request, reply, trace)


def rows(runs):
    return pa.Table.from_batches(batches_of([kept(run, RELEASE) for run in runs], RELEASE)).to_pylist()


def written(folder):
    tables = [pq.read_table(path) for path in sorted(folder.glob("requests-*.parquet"))]
    return pa.concat_tables(tables).to_pylist() if tables else []


def names(row_N):
    return [f"item-{row}" for row in row_N if row != NO_ITEM]


def test_a_row_says_everything_that_led_to_a_users_slate():
    run = run_of(["a", "b", "c"], [SampledRequest("one", "", slice(0, 1)), SampledRequest("two", "blue", slice(2, 3))])
    first, second = rows([run])
    made = run.trace.columns
    assert (first["request_id"], first["arm"], second["request_id"], second["arm"]) == ("one", None, "two", "blue")
    assert (first["user_id"], second["user_id"]) == ("a", "c")
    for row, place in ((first, 0), (second, 2)):
        assert row["model_version"] == "3" and row["release"] == RELEASE.id
        assert row["as_of"].timestamp() == row["timestamp"].timestamp() == AS_OF
        assert row["received"].timestamp() == 1_750_000_000.25
        assert (row["k"], row["seed"], row["temperature"], row["exclude"], row["allow"]) == (3, 7, None, [], None)
        assert row["source"] == "personal" and row["num_failed_sources"] == 1
        features = dict(row["features"])
        assert features == {
            "user_age": [float(made["user_age"][place])],
            "history": made["history"][place].astype(float).tolist(),
        }
        removed = {"seen": int((made["removed_seen"][place] >= 0).sum()), "rule": int(made["removed_rule"][place])}
        assert dict(row["removed"]) == removed
        assert row["proposals"] == [
            {"source": name, "item_ids": names(made["proposed_row"][place, source])}
            for source, name in enumerate(RELEASE.source_names)
        ]
        assert row["candidate_ids"] == names(made["candidate_row"][place])
        np.testing.assert_array_equal(np.float32(row["candidate_scores"]), made["score"][place, :-1])
        np.testing.assert_array_equal(
            np.float32(row["candidate_retrieval_scores"]), made["retrieval_score"][place, :-1]
        )
        assert row["slate_ids"] == run.reply.item_ids[place].tolist()
        np.testing.assert_array_equal(np.float32(row["slate_scores"]), run.reply.scores[place])
        np.testing.assert_array_equal(np.float32(row["slate_propensities"]), run.reply.propensities[place])
        assert (row["run_seconds"], row["run_users"], row["run_requests"]) == (0.75, 3, 2)
        assert dict(row["stage_seconds"]) == {"EncodeQuery": 0.25, "OrderSlate": 0.5}


def test_what_a_request_chose_is_logged_and_what_it_left_to_the_configuration_is_null():
    run = run_of(["a"])
    object.__setattr__(run.request, "temperature", np.array([0.5], np.float32))
    object.__setattr__(run.request, "timestamp", np.array([1_600_000_000]))
    object.__setattr__(run.request, "allow", [np.array(["x"], object)])
    (row,) = rows([run])
    assert row["temperature"] == 0.5 and row["diversity"] is None and row["allow"] == ["x"]
    assert row["timestamp"].timestamp() == 1_600_000_000 and run_of(["a"]).request.timestamp[0] == FEATURE_TIME


def test_a_run_without_columns_has_a_row_with_nulls():
    row, whole = rows([run_of(["a"], columns=False), run_of(["b"])])
    assert row["slate_ids"] and row["user_id"] == "a" and whole["candidate_ids"]
    empty = ("features", "removed", "proposals", "num_failed_sources", "candidate_ids", "candidate_scores")
    assert all(row[name] is None for name in empty)


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 6), st.integers(1, 3)), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_runs_together_give_the_rows_that_each_gives_alone(shapes):
    runs = [
        run_of([f"{number}-{row}" for row in range(size)], num_candidates=width, seed=number, k=k)
        for number, (size, width, k) in enumerate(shapes)
    ]
    assert rows(runs) == [row for run in runs for row in rows([run])]


@pytest.mark.parametrize("share", [0.0, 0.05, 0.5, 1.0])
def test_the_sample_is_a_share_of_the_ids_and_the_same_everywhere(tmp_path, share):
    ids = [f"request-{number}" for number in range(20_000)]
    with (
        RequestLog(RequestLogConfig(sample=share), tmp_path, RELEASE) as one,
        RequestLog(RequestLogConfig(sample=share), tmp_path / "other", RELEASE) as other,
    ):
        chosen = [one.is_sampled(id_) for id_ in ids]
        assert chosen == [other.is_sampled(id_) for id_ in ids]
    assert abs(np.mean(chosen) - share) <= 4 * np.sqrt(share * (1 - share) / len(ids))


def test_a_larger_sample_holds_the_smaller_one(tmp_path):
    logs = [RequestLog(RequestLogConfig(sample=share), tmp_path, RELEASE) for share in (0.1, 0.4)]
    ids = [str(number) for number in range(2_000)]
    small, large = ({id_ for id_ in ids if log.is_sampled(id_)} for log in logs)
    assert small < large
    for log in logs:
        log.close()


def test_closing_writes_what_waits_and_files_say_what_they_hold(tmp_path, counted):
    with RequestLog(RequestLogConfig(sample=1, seconds_per_file=3_600), tmp_path, RELEASE) as log:
        for number in range(30):
            log.add(run_of([f"user-{number}"], seed=number))
    assert [row["user_id"] for row in written(tmp_path / "requests")] == [f"user-{number}" for number in range(30)]
    (path,) = (tmp_path / "requests").iterdir()
    assert path.name.startswith("requests-2") and path.name.endswith(f"-{os.getpid()}-0.parquet")
    schema = pq.read_schema(path)
    assert schema.equals(SCHEMA) and schema.metadata[FORMAT_KEY.encode()] == str(FORMAT_VERSION).encode()
    assert json.loads(schema.metadata[RELEASE_KEY.encode()]) == {
        "version": "3",
        "id": RELEASE.id,
        "as_of": AS_OF,
        "sha256": {"ranker.onnx": "ab"},
    }
    assert counted() == {ROWS: 30}


def test_a_file_ends_after_its_rows(tmp_path, counted):
    config = RequestLogConfig(sample=1, rows_per_file=300, seconds_per_file=3_600)
    with RequestLog(config, tmp_path, RELEASE) as log:
        for number in range(12):
            log.add(run_of([f"{number}-{row}" for row in range(64)]))
            time.sleep(0.02)
    sizes = [pq.read_metadata(path).num_rows for path in sorted((tmp_path / "requests").iterdir())]
    assert sum(sizes) == 12 * 64 == counted()[ROWS] and all(300 <= size < 300 + 320 for size in sizes[:-1])


def test_a_file_ends_after_its_seconds_without_another_request(tmp_path, counted):
    with RequestLog(RequestLogConfig(sample=1, seconds_per_file=0.3), tmp_path, RELEASE) as log:
        log.add(run_of(["a"]))
        deadline = time.monotonic() + 10
        while not written(tmp_path / "requests"):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        log.add(run_of(["b"]))
    assert [row["user_id"] for row in written(tmp_path / "requests")] == ["a", "b"]
    assert len(list((tmp_path / "requests").iterdir())) == 2


def table_file(tmp_path, number_of_rows, **limits):
    limits = {"rows_per_file": 10**6, "seconds_per_file": 60.0, "max_bytes": 10**9} | limits
    schema = pa.schema([("n", pa.int64())])
    batch = pa.record_batch([np.random.default_rng(0).integers(0, 2**62, number_of_rows)], schema=schema)
    return RotatedParquet(tmp_path, schema, **limits), batch


def test_the_oldest_files_go_when_there_are_too_many_bytes(tmp_path):
    files, batch = table_file(tmp_path, 1_000, max_bytes=40_000)
    made = []
    for _ in range(20):
        files.write([batch])
        files.seal()
        made = sorted({*made, *(path.name for path in tmp_path.iterdir())})
        assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 40_000
    left = sorted(path.name for path in tmp_path.iterdir())
    assert len(made) == 20 and 2 <= len(left) < 6 and left == made[-len(left) :]


def test_what_a_killed_process_left_behind_goes_and_what_another_one_writes_stays(tmp_path):
    (killed := tmp_path / ".unfinished-1-aa").write_bytes(b"x")
    os.utime(killed, (time.time() - 3_600,) * 2)
    (other := tmp_path / ".unfinished-2-bb").write_bytes(b"x")
    files, batch = table_file(tmp_path, 10)
    files.write([batch])
    files.seal()
    assert not killed.exists() and other.exists()


def test_a_killed_process_leaves_whole_files_only(tmp_path):
    program = """
import os, sys, time
sys.path.insert(0, "tests/ensemble")
from pathlib import Path
import pyarrow as pa
from ensemble.rotated_parquet import RotatedParquet
files = RotatedParquet(Path(sys.argv[1]), pa.schema([("n", pa.int64())]), 10**6, 60, 10**9)
batch = pa.record_batch([list(range(1000))], names=["n"])
files.write([batch]); files.seal(); files.write([batch]); os.kill(os.getpid(), 9)
"""
    assert subprocess.run([sys.executable, "-c", program, tmp_path], check=False).returncode == -9
    assert len(list(tmp_path.iterdir())) == 2
    assert pq.ParquetDataset(tmp_path).read().num_rows == 1_000


def test_a_full_queue_drops_rows_counts_them_and_never_makes_a_request_wait(tmp_path, counted, monkeypatch):
    let_go = threading.Event()
    monkeypatch.setattr(RotatedParquet, "begin", lambda self: let_go.wait(30))  # a disk that hangs
    with RequestLog(RequestLogConfig(sample=1, queue_rows=10), tmp_path, RELEASE) as log:
        taken = []
        for number in range(50):
            run = run_of([f"{number}-a", f"{number}-b"])
            begun = time.perf_counter()
            log.add(run)
            taken.append(time.perf_counter() - begun)
        assert counted()["queue"] == 2 * (50 - 5) and np.median(taken) < 1e-3
        let_go.set()
    users = [row["user_id"] for row in written(tmp_path / "requests")]
    assert users == [f"{number}-{name}" for number in range(5) for name in "ab"]
    assert counted() == {"queue": 90, ROWS: 10}


FULL_DISK = """
import json, resource, signal, sys, time
from pathlib import Path
sys.path.insert(0, "tests/ensemble")
import test_request_log as world
from ensemble.serving_metrics import metrics

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
config = world.RequestLogConfig(sample=1, seconds_per_file=0.2)
with world.RequestLog(config, Path(sys.argv[1]), world.RELEASE) as log:
    for number in range(40):
        log.add(world.run_of([str(number)], seed=number, num_candidates=300))
        time.sleep(0.02)
        if number == 20:
            time.sleep(0.5)
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY,) * 2)  # the disk has room again
print(json.dumps({dict(one.labels).get("reason", one.name): value for one, value in metrics.totals().items()}))
"""


def test_a_full_disk_costs_rows_that_are_counted_and_the_log_goes_on_when_there_is_room(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, tmp_path], capture_output=True, text=True, check=True, timeout=120
    )
    counted = json.loads(done.stdout.splitlines()[-1])
    users = [int(row["user_id"]) for row in written(tmp_path / "requests")]
    assert counted["disk"] == 21 and counted[ROWS] == 19 and users == list(range(21, 40))
    assert "the request log cannot be" in done.stderr and done.stderr.count("Traceback") < 5
    assert {path.name[:9] for path in (tmp_path / "requests").iterdir()} == {"requests-"}


def test_a_folder_that_cannot_be_made_costs_rows_alone(tmp_path, counted):
    (tmp_path / "requests").write_text("a file, not a folder")
    with RequestLog(RequestLogConfig(sample=1), tmp_path, RELEASE) as log:
        for number in range(5):
            log.add(run_of([str(number)]))
    assert counted() == {"disk": 5, ROWS: 0}


def test_a_run_that_cannot_be_understood_costs_its_own_rows_alone(tmp_path, counted):
    with RequestLog(RequestLogConfig(sample=1), tmp_path, RELEASE) as log:
        log.add(run_of(["a"]))
        broken = run_of(["b", "c"])
        broken.trace.columns["candidate_row"] = np.zeros(0, np.int64)
        log.add(broken)
        log.add(run_of(["d"]))
    assert [row["user_id"] for row in written(tmp_path / "requests")] == ["a", "d"]
    assert counted() == {"error": 2, ROWS: 2}


def test_handing_over_a_request_is_cheap(tmp_path):
    run = run_of(["a"])
    with RequestLog(RequestLogConfig(sample=1, queue_rows=5_000), tmp_path, RELEASE) as log:
        begun = time.perf_counter()
        for _ in range(2_000):
            assert log.is_sampled("0123456789abcdef")
            log.add(run)
        assert (time.perf_counter() - begun) / 2_000 < 200e-6  # 5 us on a quiet machine
