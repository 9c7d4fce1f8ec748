"""A model process that dies is noticed, readiness says so, and it is brought back; if it keeps dying, all ends."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from ensemble.client import RecommendClient, ServerUnavailable
from ensemble.config import ServingConfig
from ensemble.control import ControlClient, ControlError
from ensemble.release import Release
from ensemble.rollout import prepared_repository
from ensemble.rollout_state import version_of
from ensemble.supervision import Supervisor, model_processes
from ensemble.triton_config import MODEL_NAME

pytestmark = pytest.mark.triton

SERVE = """
import sys
from pathlib import Path
from ensemble.server import ServingConfig, serve_forever
config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, max_revivals=1, drain_seconds=float(sys.argv[2]))
serve_forever(Path(sys.argv[1]) / "models", Path(sys.argv[1]), config)
"""


class Owner:
    """A process that runs serve_forever on a staged release."""

    def __init__(self, serve_folder: Path, drain_seconds: float) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVE, serve_folder, str(drain_seconds)],
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout
        lines = [self.process.stdout.readline() for _ in range(5)]
        assert "ready" in lines[-1], (lines, self.process.stderr and self.process.stderr.read())
        self.http_url, self.grpc_url = (line.split()[-1] for line in lines[:2])
        ps = ["ps", "-o", "pid=", "--ppid", str(self.process.pid)]
        self.triton = int(subprocess.run(ps, capture_output=True, text=True).stdout)

    def is_ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http_url}/v2/models/{MODEL_NAME}/ready") as answer:
                return answer.status == 200
        except urllib.error.HTTPError as error:
            error.close()
            return False


@pytest.fixture
def served(stand_in_repository, tmp_path, monkeypatch):
    """A function that serves the stand-in as release 1."""
    folder = stand_in_repository() / MODEL_NAME / "1"
    identity = {"id": "1", "run": "/runs/1", "export": "1", "as_of": 0}
    release = Release(folder, folder / "model.py", folder.parent / "config.pbtxt", identity["run"], identity)
    monkeypatch.setattr("ensemble.rollout.checked_release", lambda run: release)
    monkeypatch.setattr("ensemble.served_repository.SERVED_MODELS", ())
    prepared_repository(Path("/runs/1"), tmp_path / "serve", ServingConfig())
    owners = []

    def serve(drain_seconds: float = 0.0) -> Owner:
        owners.append(Owner(tmp_path / "serve", drain_seconds))
        return owners[-1]

    yield serve
    for owner in owners:
        owner.process.kill()
        owner.process.communicate()  # waits, and closes the pipes


def wait_until(condition, seconds):
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() < begun + seconds, "waited in vain"
        time.sleep(0.02)
    return time.monotonic() - begun


def test_a_killed_model_process_is_noticed_and_brought_back_once_and_then_the_server_ends(served, tmp_path):
    owner = served()

    def kill():
        [model] = model_processes(owner.triton, tmp_path / "serve")
        os.kill(model, signal.SIGKILL)

    kill()
    noticed = wait_until(lambda: not owner.is_ready(), 5)
    wait_until(owner.is_ready, 60)
    assert noticed < 2, "0.1 s on a machine with nothing else to do"
    with RecommendClient(owner.grpc_url) as client:
        assert client.recommend(["u"], k=1).item_ids.tolist() == [["u-0"]]
    assert list(model_processes(owner.triton, tmp_path / "serve").values()) == [(MODEL_NAME, version_of(1))]
    time.sleep(0.3)
    kill()
    assert owner.process.wait(30) != 0
    assert owner.process.stderr and "2th such end within 60 s" in owner.process.stderr.read()


def test_a_triton_that_ends_by_itself_is_the_reason_given_not_its_models_which_end_first(served, tmp_path):
    owner = served()
    os.kill(owner.triton, signal.SIGTERM)
    assert owner.process.wait(30) == 1
    assert owner.process.stderr
    told = owner.process.stderr.read()
    assert "ServerError: Triton ended with exit code 0" in told and "ControlError" not in told
    assert "bringing it back" not in told


@pytest.mark.parametrize("ends", [True, False])
def test_unreachable_control_endpoints_are_an_error_only_where_triton_goes_on(ends, tmp_path, monkeypatch):
    triton = subprocess.Popen(["sleep", "0.5" if ends else "60"])
    try:
        looks = iter([{1: (MODEL_NAME, 1)}, {}])
        monkeypatch.setattr("ensemble.supervision.model_processes", lambda *_: next(looks, {}))
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            control = ControlClient(f"127.0.0.1:{closed.getsockname()[1]}", "", 5)
            supervisor = Supervisor(tmp_path, triton.pid, control, 3, 60.0, exit_seconds=5.0 if ends else 0.2)
            supervisor.look()
            time.sleep(0.1)
            supervisor.look()
            assert supervisor._work
            supervisor._work.join(10)
        if ends:
            supervisor.look()
        else:
            with pytest.raises(ControlError, match="cannot be reached"):
                supervisor.look()
    finally:
        triton.kill()
        triton.wait()


def test_sigterm_lets_every_request_that_was_taken_have_its_answer_and_drains_first(served):
    owner = served(drain_seconds=1.0)
    replies, errors = [], []

    def ask(number):
        with RecommendClient(owner.grpc_url, timeout_seconds=20) as client:
            while not errors:
                try:
                    replies.append((time.monotonic(), client.recommend([f"slow-{number}"], k=1).item_ids[0, 0]))
                except Exception as error:
                    errors.append((time.monotonic(), error))

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(6)]
    for thread in threads:
        thread.start()
    time.sleep(0.5)
    signalled = time.monotonic()
    owner.process.terminate()
    for thread in threads:
        thread.join()
    assert owner.process.wait(30) == 0
    assert min(when for when, _ in errors) > signalled + 1.0, "nothing is refused while it drains"
    for _, error in errors:  # never taken: refused, its model is gone already, or nobody listens any more
        assert isinstance(error, ServerUnavailable), error
    assert len(replies) > 20
