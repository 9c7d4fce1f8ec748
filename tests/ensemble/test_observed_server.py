"""What a served model leaves behind: metrics that Prometheus can read, and log lines with request ids."""

import json
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
from google.protobuf import text_format
from prometheus_client.parser import text_string_to_metric_families
from pydantic import TypeAdapter
from tritonclient.grpc import model_config_pb2

from ensemble.client import RecommendClient, ServerFailure
from ensemble.config import ServingConfig
from ensemble.request import RequestError
from ensemble.server import TritonServer
from ensemble.triton_config import MODEL_NAME, SETTINGS

pytestmark = pytest.mark.triton

CONFIG = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)


def tell(repository, config):
    """Write the serving configuration into config.pbtxt, as a staged repository has it."""
    path = repository / MODEL_NAME / "config.pbtxt"
    told = text_format.Parse(path.read_text(), model_config_pb2.ModelConfig())
    told.parameters[SETTINGS].string_value = TypeAdapter(ServingConfig).dump_json(config).decode()
    path.write_text(text_format.MessageToString(told))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def server(stand_in_repository, folder):
    made = stand_in_repository()
    repository = folder / "models"
    made.rename(repository)
    tell(repository, CONFIG)
    with TritonServer(repository, folder, CONFIG) as server:
        yield server


def samples(server):
    """Values of the metrics endpoint by name and labels, less the model's, the version's and the process's."""
    text = urllib.request.urlopen(server.metrics_url).read().decode()
    values = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name.startswith("cascade_"):
                labels = dict(sample.labels)
                assert (labels.pop("model"), labels.pop("version")) == (MODEL_NAME, "1")
                assert labels.pop("process").isdecimal()
                name = sample.name  # this parser, unlike Prometheus, ends every counter in _total
                if name.removesuffix("_total").endswith(("_bucket", "_sum", "_count")):
                    name = name.removesuffix("_total")
                values[(name, *sorted(labels.items()))] = sample.value
    return values


def grown(server, before, key, amount):
    """Whether a value has grown by the amount within the time that publishing may take."""
    deadline = time.monotonic() + 10
    while (found := samples(server).get(key, 0) - before.get(key, 0)) != amount:
        assert time.monotonic() < deadline, f"{key} grew by {found}, not by {amount}"
        time.sleep(0.1)
    return True


def log_lines(folder, *words):
    deadline = time.monotonic() + 10
    while True:
        lines = [json.loads(line) for line in (folder / "cascade.jsonl").read_text().splitlines()]
        if found := [line for line in lines if all(word in json.dumps(line) for word in words)]:
            return found
        assert time.monotonic() < deadline, f"no line has {words}: {lines}"
        time.sleep(0.1)


def test_the_metrics_endpoint_counts_what_callers_saw(server, client):
    client.recommend(["warm"])
    for key in (  # series are published one after the other: all that are looked at below must be there
        ("cascade_requests_total", ("outcome", "ok")),
        ("cascade_users_total", ("source", "personal")),
        ("cascade_run_users_bucket", ("le", "1")),
        ("cascade_run_users_bucket", ("le", "2")),
        ("cascade_run_users_bucket", ("le", "+Inf")),
        ("cascade_run_users_sum",),
        ("cascade_run_seconds_count",),
    ):
        assert grown(server, {}, key, 1)
    before = samples(server)
    for users in (["a"], ["b", "c"], ["d"] * 64):
        client.recommend(users)
    with pytest.raises(ServerFailure):
        client.recommend(["boom"])
    with pytest.raises(RequestError):
        client.recommend(["unwelcome"])
    with pytest.raises(RequestError):
        client.recommend(["a"], seed="much")
    for key, amount in {
        ("cascade_users_total", ("source", "personal")): 67,
        ("cascade_requests_total", ("outcome", "ok")): 3,
        ("cascade_requests_total", ("outcome", "failed")): 1,
        ("cascade_errors_total", ("kind", "RuntimeError"), ("stage", "")): 1,
        ("cascade_run_users_bucket", ("le", "1")): 1,
        ("cascade_run_users_bucket", ("le", "2")): 2,
        ("cascade_run_users_bucket", ("le", "+Inf")): 3,
        ("cascade_run_users_sum",): 67,
        ("cascade_run_seconds_count",): 3,
        ("cascade_errors_total", ("kind", "RequestError"), ("stage", "")): 1,
    }.items():
        assert grown(server, before, key, amount)


def test_a_failed_request_names_itself_to_its_caller_and_in_the_log(client, folder):
    with pytest.raises(ServerFailure, match="traceback of request order-66"):
        client.recommend(["boom"], request_id="order-66")
    (line,) = log_lines(folder, "order-66")
    assert line["request_ids"] == ["order-66"] and line["version"] == "1" and line["level"] == "ERROR"
    assert "RuntimeError: the store is on fire" in line["exception"]
    assert "the store is on fire" in (folder / "triton.log").read_text()


def test_a_request_without_an_id_gets_one(client, folder):
    with pytest.raises(ServerFailure, match=r"traceback of request [0-9a-f]{16}") as failed:
        client.recommend(["boom"])
    drawn = str(failed.value).partition("traceback of request ")[2][:16]
    assert log_lines(folder, drawn)


def test_an_endless_request_id_is_refused(client):
    assert client.recommend(["a"], request_id="x" * 128).item_ids[0, 0] == "a-0"
    with pytest.raises(RequestError, match="the request id may have at most 128 characters, got 129"):
        client.recommend(["a"], request_id="x" * 129)


def test_requests_that_were_joined_and_failed_are_all_named(server, folder):
    def call(number):
        with RecommendClient(server.grpc_url, timeout_seconds=60) as own:
            try:
                own.recommend(["boom" if number == 3 else f"slow-{number}"], request_id=f"joined-{number}")
            except ServerFailure:
                return number

    with ThreadPoolExecutor(8) as pool:
        assert [found for found in pool.map(call, range(8)) if found is not None] == [3]
    joined = [line for line in log_lines(folder, "joined-3") if "running each alone" in line["message"]]
    assert all(len(line["request_ids"]) > 1 for line in joined)
    (alone,) = (line for line in log_lines(folder, "joined-3") if "request joined-3" in line["message"])
    assert alone["request_ids"] == ["joined-3"]


def test_a_model_that_cannot_be_loaded_says_so_in_the_log(stand_in_repository, tmp_path):
    from ensemble.server import ServerError

    (tmp_path / "models").parent.mkdir(exist_ok=True)
    stand_in_repository("broken").rename(tmp_path / "models")
    tell(tmp_path / "models", CONFIG)
    with pytest.raises(ServerError), TritonServer(tmp_path / "models", tmp_path, replace(CONFIG)):
        pass
    (line,) = log_lines(tmp_path, "cannot be loaded")
    assert "the artifacts are broken" in line["exception"]


@pytest.mark.slow
def test_cascade_serve_writes_to_the_same_log(small_run, tmp_path):
    run = shutil.copytree(small_run, tmp_path / "run", ignore=shutil.ignore_patterns("serve"))
    command = [sys.executable, "-m", "pipelines", "serve", "--out", run]
    ports = [f"--serving.{name}-port=0" for name in ("http", "grpc", "metrics")]
    with subprocess.Popen([*map(str, command), *ports], stdout=subprocess.PIPE, text=True) as serving:
        try:
            assert serving.stdout
            while "ready" not in (line := serving.stdout.readline()):
                assert line, "the server ended"
            (ready,) = log_lines(run / "serve", "ready: http")
            (loaded,) = log_lines(run / "serve", "is loaded", f'"model": "{MODEL_NAME}"')
            assert ready["process"] == "serve" and ready["pid"] == serving.pid != loaded["pid"]
        finally:
            serving.send_signal(signal.SIGTERM)
        assert serving.wait(60) == 0
    assert log_lines(run / "serve", "stopped")
