"""Triton starts, says what is wrong when it does not, serves what it is given, and leaves nothing behind."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.client import RecommendClient
from ensemble.process_group import group_members
from ensemble.server import PortInUseError, ServerError, ServingConfig, TritonServer
from ensemble.triton_config import MODEL_NAME

pytestmark = pytest.mark.triton

FREE_PORTS = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)
SERVE = """
import sys
from pathlib import Path
from ensemble.server import ServingConfig, serve_forever
serve_forever(Path(sys.argv[1]), Path(sys.argv[2]), ServingConfig(http_port=0, grpc_port=0, metrics_port=0))
"""


@pytest.fixture(scope="module")
def server(stand_in_repository, tmp_path_factory):
    with TritonServer(stand_in_repository(), tmp_path_factory.mktemp("serve"), FREE_PORTS) as server:
        yield server


def post(server, *inputs):
    """Status and body of an HTTP call without any client library, as curl would make it."""
    body = json.dumps({"inputs": list(inputs)}).encode()
    try:
        with urllib.request.urlopen(f"http://{server.http_url}/v2/models/{MODEL_NAME}/infer", body) as reply:
            return reply.status, json.loads(reply.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def tensor(name, datatype, shape, data):
    return {"name": name, "datatype": datatype, "shape": shape, "data": data}


def users(*ids):
    return tensor("user_id", "BYTES", [len(ids), 1], list(ids))


def wait_until(condition, seconds=15):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)


def shared_memory_of(run_folder):
    prefix = (run_folder / "lock").read_text().split()[-1]
    return list(Path("/dev/shm").glob(f"{prefix}*"))


@pytest.fixture
def started_by_another_process():
    """A function that gives a process which runs serve_forever, and its ready Triton's pid."""
    with contextlib.ExitStack() as owners:

        def start(repository, run_folder):
            owner = subprocess.Popen(
                [sys.executable, "-c", SERVE, repository, run_folder],
                env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            owners.enter_context(owner)
            owners.callback(owner.kill)
            assert owner.stdout
            lines = [owner.stdout.readline() for _ in range(5)]
            assert "ready" in lines[-1], lines
            ps = ["ps", "-o", "pid=", "--ppid", str(owner.pid)]
            return owner, int(subprocess.run(ps, capture_output=True, text=True).stdout)

        yield start


def test_it_is_ready_on_addresses_of_this_machine_only_and_counts_its_work(server):
    assert server.is_alive
    assert post(server, users("u"))[1]["outputs"]
    assert {url.split(":")[0] for url in (server.http_url, server.grpc_url)} == {"127.0.0.1"}
    with urllib.request.urlopen(server.metrics_url) as metrics:
        assert f'nv_inference_request_success{{model="{MODEL_NAME}"' in metrics.read().decode()


def test_a_plain_http_call_gets_every_output(server):
    status, reply = post(server, users("u"), tensor("k", "INT32", [1, 1], [2]))
    outputs = {output["name"]: (output["shape"], output["data"]) for output in reply["outputs"]}
    assert status == 200
    assert outputs["item_ids"] == ([1, 2], ["u-0", "u-1"])
    assert outputs["scores"] == ([1, 2], [-1.0, -1.0])
    assert outputs["propensities"] == ([1, 2], [1.0, 1.0])
    assert outputs["source"] == ([1, 1], ["personal"])
    assert outputs["candidate_ids"] == ([1, 12], [f"u-{number}" for number in range(12)])
    assert outputs["ranked_ids"] == ([1, 12], [f"u-{number}" for number in reversed(range(12))])


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([users("a", "")], "user_id row 1 must be an id"),
        ([users("a" * 257)], "user_id row 0 may have at most 256 bytes, got 257"),
        ([users("a"), tensor("k", "INT32", [1, 1], [0])], "k row 0 must be 1..1000, got 0"),
        ([users("a"), tensor("k", "INT32", [1, 1], [1001])], "k row 0 must be 1..1000, got 1001"),
        ([users("a"), tensor("timestamp", "INT64", [1, 1], [1_700_000_000_000])], "not milliseconds"),
        ([users("a"), tensor("exclude", "BYTES", [1, 10_001], ["x"] * 10_001)], "at most 10000 item ids, got 10001"),
        ([users()], "expected 1 string elements"),
        ([users(*"a" * 65)], "batch-size must be <= 64"),
        ([users("a", "b"), tensor("k", "INT32", [1, 1], [5])], "batch size does not match"),
        ([users("a"), tensor("k", "INT64", [1, 1], [5])], "data-type is 'INT64'"),
        ([tensor("user_id", "BYTES", [1], ["a"])], "unexpected shape for input 'user_id'"),
        ([users("a"), tensor("kk", "INT32", [1, 1], [5])], "unexpected inference input 'kk'"),
        ([], "missing required input"),
        ([users("unwelcome")], "is unwelcome"),
    ],
)
def test_a_bad_request_is_refused_and_the_server_goes_on(server, inputs, message):
    status, reply = post(server, *inputs)
    assert status == 400 and message in reply["error"]
    assert post(server, users("u"))[0] == 200


@pytest.mark.parametrize("bad", [None, 7])
def test_a_null_or_a_number_in_json_is_refused_by_triton_itself(server, bad):
    status, reply = post(server, users(bad))
    assert status == 500 and "non-string" in reply["error"]
    assert post(server, users("u"))[0] == 200


def test_bytes_that_are_not_utf8_are_refused(server):
    import numpy as np
    import tritonclient.http as triton

    data = triton.InferInput("user_id", [1, 1], "BYTES")
    data.set_data_from_numpy(np.array([[b"\xff"]], dtype=object))
    with pytest.raises(triton.InferenceServerException, match="user_id row 0 must be UTF-8"):
        triton.InferenceServerClient(server.http_url).infer(MODEL_NAME, [data])
    assert post(server, users("u"))[0] == 200


def test_a_failing_pipeline_is_an_error_of_the_server_with_the_traceback_in_its_log(server):
    status, reply = post(server, users("boom"))
    assert status == 500 and "RuntimeError: the store is on fire" in reply["error"]
    deadline = time.monotonic() + 10  # Triton writes its log a little later than its replies
    while "raise RuntimeError" not in server.log_path.read_text() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert "raise RuntimeError" in server.log_path.read_text()
    assert post(server, users("u"))[0] == 200


def test_a_port_in_use_is_named_before_anything_starts(server, stand_in_repository, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        second = TritonServer(stand_in_repository(), tmp_path, replace(FREE_PORTS, grpc_port=port))
        with pytest.raises(PortInUseError, match=f"grpc_port {port} on 127.0.0.1 .*--serving.grpc-port"):
            second.start()
    assert not second.is_alive and not second.log_path.exists()


def test_a_run_folder_serves_once(server, stand_in_repository):
    with pytest.raises(ServerError, match=f"is served already .started by pid {os.getpid()}"):
        TritonServer(stand_in_repository(), server.run_folder, FREE_PORTS).start()
    assert post(server, users("u"))[0] == 200


def test_a_missing_repository_says_which_stage_makes_it(tmp_path):
    with pytest.raises(ServerError, match="run the export stage first"):
        TritonServer(tmp_path, tmp_path, FREE_PORTS).start()


def test_a_model_that_cannot_load_shows_why(stand_in_repository, tmp_path):
    server = TritonServer(stand_in_repository("broken"), tmp_path, FREE_PORTS)
    with pytest.raises(ServerError, match=r"exit code 1(.|\n)*RuntimeError: the artifacts are broken"):
        server.start()
    assert not server.is_alive and not shared_memory_of(tmp_path)


def test_a_model_that_takes_too_long_is_stopped(stand_in_repository, tmp_path):
    config = replace(FREE_PORTS, ready_timeout_seconds=1, stop_timeout_seconds=1)
    server = TritonServer(stand_in_repository("endless"), tmp_path, config)
    with pytest.raises(ServerError, match="not ready after 1 s"):
        server.start()
    assert not server.is_alive and not shared_memory_of(tmp_path)


def test_stop_leaves_no_process_no_port_and_no_memory_even_with_a_hung_request(stand_in_repository, tmp_path):
    server = TritonServer(stand_in_repository(), tmp_path, replace(FREE_PORTS, stop_timeout_seconds=1))
    server.start()
    group = server.pid
    assert group and len(group_members(group)) == 2 and shared_memory_of(tmp_path)
    with RecommendClient(server.grpc_url, timeout_seconds=0.2) as client, pytest.raises(ConnectionError):
        client.recommend(["forever"])
    server.stop()
    server.stop()
    assert not group_members(group) and not shared_memory_of(tmp_path)
    for port in (server.config.http_port, server.config.grpc_port, server.config.metrics_port):
        socket.create_server(("127.0.0.1", port)).close()


def test_the_end_of_a_model_process_ends_the_server(started_by_another_process, stand_in_repository, tmp_path):
    owner, triton = started_by_another_process(stand_in_repository(), tmp_path)
    (model,) = group_members(triton) - {triton}
    os.kill(model, signal.SIGKILL)
    assert owner.wait(15) != 0
    assert not group_members(triton) and not shared_memory_of(tmp_path)


def test_sigterm_stops_serve_forever_cleanly(started_by_another_process, stand_in_repository, tmp_path):
    owner, triton = started_by_another_process(stand_in_repository(), tmp_path)
    owner.terminate()
    assert owner.wait(15) == 0
    assert not group_members(triton) and not shared_memory_of(tmp_path)


def test_kill_nine_of_the_owner_leaves_no_orphan(started_by_another_process, stand_in_repository, tmp_path):
    owner, triton = started_by_another_process(stand_in_repository(), tmp_path)
    owner.kill()
    owner.wait()
    wait_until(lambda: not group_members(triton))
    assert not shared_memory_of(tmp_path)


def test_what_two_killed_processes_left_is_cleaned_at_the_next_start(
    started_by_another_process, stand_in_repository, tmp_path
):
    owner, triton = started_by_another_process(stand_in_repository(), tmp_path)
    owner.kill()
    os.killpg(triton, signal.SIGKILL)
    owner.wait()
    wait_until(lambda: not group_members(triton))
    (left,) = shared_memory_of(tmp_path)
    with TritonServer(stand_in_repository(), tmp_path, FREE_PORTS) as server:
        assert not left.exists()
        assert server.log_path.with_suffix(".previous.log").exists()
