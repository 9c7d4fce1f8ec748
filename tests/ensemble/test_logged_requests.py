"""The request log of the served pipeline: as many rows as users asked for, each equal to what its caller got."""

import shutil
import time
import urllib.request
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter
from tritonclient.grpc import model_config_pb2

from ensemble.client import RecommendClient
from ensemble.config import ServingConfig
from ensemble.metrics_publisher import SECONDS_BETWEEN
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.request_log_config import RequestLogConfig
from ensemble.request_rows import LoggedRelease
from ensemble.server import TritonServer
from ensemble.trace import Trace
from ensemble.triton_config import MODEL_NAME, SETTINGS

pytestmark = pytest.mark.triton

CONFIG = ServingConfig(
    http_port=0,
    grpc_port=0,
    metrics_port=0,
    ready_timeout_seconds=180,
    request_log=RequestLogConfig(sample=1, seconds_per_file=0.5, queue_rows=100_000),
)


@pytest.fixture(scope="module")
def folder(small_run, tmp_path_factory):
    """A serve folder with the exported model, told to log every request."""
    folder = tmp_path_factory.mktemp("serve")
    shutil.copytree(small_run / "export/repository", folder / "models")
    path = folder / "models" / MODEL_NAME / "config.pbtxt"
    told = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    told.parameters[SETTINGS].string_value = TypeAdapter(ServingConfig).dump_json(CONFIG).decode()
    path.write_text(text_format.MessageToString(told))
    return folder


@pytest.fixture(scope="module")
def users(small_run):
    return pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()


@pytest.fixture(scope="module")
def answered(folder, users):
    """Replies by request id: single users of all kinds at once, one call of 64, and one with everything set."""
    rng = np.random.default_rng(4)
    asked = {f"single-{n}": {"user_ids": [user]} for n, user in enumerate([*users[:40], "stranger"])}
    asked["many"] = {"user_ids": [*users[:63], "stranger"], "k": rng.integers(1, 30, 64).tolist()}
    asked["all set"] = {"user_ids": users[:2], "k": 5, "timestamp": 1_710_000_000, "seed": 11, "exclude": [["x"], []]}

    with TritonServer(folder / "models", folder, replace(CONFIG)) as server:

        def call(request_id):
            with RecommendClient(server.grpc_url, timeout_seconds=60) as client:
                return client.recommend(**asked[request_id], with_candidates=True, request_id=request_id)

        with ThreadPoolExecutor(8) as pool:
            replies = dict(zip(asked, pool.map(call, asked), strict=True))
        # The first files are whole, and on the endpoint, while the server runs.
        deadline = time.monotonic() + 60
        while b"\ncascade_request_log_rows_total{" not in urllib.request.urlopen(server.metrics_url).read():
            assert time.monotonic() < deadline, "no file of the log within a minute"
            time.sleep(0.2)
        assert list((folder / "requests").glob("requests-*.parquet"))
        time.sleep(2 * SECONDS_BETWEEN)  # what was counted before is told
        (folder / "metrics.txt").write_bytes(urllib.request.urlopen(server.metrics_url).read())
    return {request_id: (asked[request_id], reply) for request_id, reply in replies.items()}


@pytest.fixture(scope="module")
def rows(folder, answered):
    """The log's rows by request id, in the order of its users."""
    tables = [pq.read_table(path) for path in sorted((folder / "requests").glob("requests-*.parquet"))]
    by_id = {}
    for row in pa.concat_tables(tables).to_pylist():
        by_id.setdefault(row["request_id"], []).append(row)
    return by_id


def ids(row):
    return [item for item in row.tolist() if item]


def test_every_user_of_every_request_has_a_row(answered, rows):
    assert {request_id: len(found) for request_id, found in rows.items()} == {
        request_id: len(asked["user_ids"]) for request_id, (asked, _) in answered.items()
    }


def test_a_row_equals_the_reply(answered, rows):
    for request_id, (asked, reply) in answered.items():
        for place, row in enumerate(rows[request_id]):
            assert row["user_id"] == asked["user_ids"][place] and row["source"] == reply.source[place]
            slate = ids(reply.item_ids[place])
            assert row["slate_ids"] == slate
            np.testing.assert_array_equal(np.float32(row["slate_scores"]), reply.scores[place, : len(slate)])
            np.testing.assert_array_equal(
                np.float32(row["slate_propensities"]), reply.propensities[place, : len(slate)]
            )
            assert row["candidate_ids"] == ids(reply.candidate_ids[place])
            best = np.argsort(-np.float32(row["candidate_scores"]), kind="stable")
            first = np.float32(row["candidate_scores"])[best][: len(slate)]
            np.testing.assert_array_equal(first, reply.scores[place, : len(slate)])


def test_a_row_has_what_the_request_said_and_what_the_release_is(answered, rows, folder):
    first, second = rows["all set"]
    assert (first["k"], first["seed"], first["exclude"], second["exclude"]) == (5, 11, ["x"], [])
    assert first["timestamp"].timestamp() == 1_710_000_000
    release = LoggedRelease.read(folder / "models" / MODEL_NAME / "1", (), ())
    for row in (first, rows["single-0"][0]):
        assert (row["release"], row["model_version"], row["as_of"].timestamp()) == (release.id, "1", release.as_of)
    assert rows["single-0"][0]["timestamp"] == rows["single-0"][0]["as_of"]


def test_features_proposals_and_stages_are_those_of_the_pipeline_in_process(answered, rows, folder):
    pipeline = Pipeline.load(folder / "models" / MODEL_NAME / "1")
    asked, _ = answered["many"]
    trace = Trace()
    pipeline.recommend(Request.of(**asked), trace)
    items = LoggedRelease.read(folder / "models" / MODEL_NAME / "1", (), ()).item_ids.to_pylist()
    for place, row in enumerate(rows["many"]):
        features = dict(row["features"])
        assert set(features) == set(pipeline.feature_names)
        for name, values in features.items():
            np.testing.assert_array_equal(values, np.float64(trace.columns[name][place]).ravel())
        assert [one["source"] for one in row["proposals"]] == pipeline.source_names
        for source, one in enumerate(row["proposals"]):
            proposed = trace.columns["proposed_row"][place, source]
            assert one["item_ids"] == [items[item] for item in proposed if item >= 0]
        assert [name for name, _ in row["stage_seconds"]] == list(trace.stage_seconds)
        assert 0 < sum(seconds for _, seconds in row["stage_seconds"]) <= row["run_seconds"] < 60
        assert row["run_users"] >= 64 and row["run_requests"] >= 1


def test_the_metrics_agree_with_the_log(answered, rows, folder):
    pipeline = Pipeline.load(folder / "models" / MODEL_NAME / "1")
    totals = defaultdict(float)
    for family in text_string_to_metric_families((folder / "metrics.txt").read_text()):
        for sample in family.samples:
            own = [value for name, value in sample.labels.items() if name not in ("model", "version", "process")]
            totals[(sample.name.removesuffix("_total"), *own)] += sample.value
    logged = [row for found in rows.values() for row in found]
    num_runs = totals["cascade_run_users_count",]
    assert totals["cascade_requests", "ok"] == len(answered) == totals["cascade_run_requests_sum",] >= num_runs
    assert totals["cascade_run_users_sum",] == len(logged)
    for source in {row["source"] for row in logged}:
        assert totals["cascade_users", source] == sum(row["source"] == source for row in logged)
    for operator in pipeline.operators:
        assert totals["cascade_stage_seconds_count", type(operator).__name__] == num_runs
    for number, source in enumerate(pipeline.source_names):
        proposed = sum(len(row["proposals"][number]["item_ids"]) for row in logged)
        assert totals["cascade_proposed_items", source] == proposed
    assert (
        0 < totals["cascade_request_log_rows",] <= len(logged)
        and not totals["cascade_request_log_dropped_rows", "queue"]
    )
