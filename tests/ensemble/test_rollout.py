"""Releases change under load: no request fails, and every reply is one release's answer."""

import contextlib
import http.client
import itertools
import json
import threading
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from ensemble.assignment import place
from ensemble.client import RecommendClient
from ensemble.config import ServingConfig
from ensemble.control import ControlError
from ensemble.release import Release
from ensemble.release_check import ReleaseCheck
from ensemble.rollout import Rollout, prepared_repository
from ensemble.rollout_state import Live, RolloutError, read_state, version_of
from ensemble.served_repository import ServedRepository
from ensemble.server import TritonServer
from ensemble.triton_config import MODEL_NAME, triton_config

pytestmark = pytest.mark.triton

CONFIG = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)
RELEASE = """
import time

import numpy as np
from pathlib import Path


class Tagged:
    def __init__(self, of, tag):
        self.of, self.tag = of, tag
        self.source_names, self.feature_names = of.source_names, of.feature_names

    def recommend(self, request, trace):
        reply = self.of.recommend(request, trace)
        reply.scores[:] = np.where(reply.item_ids == "", -np.inf, self.tag)
        if self.tag == 13:
            reply.item_ids[:] = ""
        if self.tag == 14 and "stranger" not in request.user_id[0] and "a user" not in request.user_id[-1]:
            raise RuntimeError("release 14 fails under traffic")
        time.sleep(0.003)
        return reply


class TritonPythonModel(TritonPythonModel):
    def load_pipeline(self, version_dir):
        tag = int((version_dir / "tag").read_text())
        time.sleep(5 if tag == 7 else 0)
        return Tagged(super().load_pipeline(version_dir), tag)
"""


@pytest.fixture(scope="module")
def release(stand_in_repository):
    """A function that makes a release whose scores are its tag.

    Tag 7 loads slowly, 13 has no items, 14 fails, and -1 cannot be loaded.
    """

    def make(tag: int) -> Release:
        folder = stand_in_repository(*(["broken"] if tag < 0 else [])) / MODEL_NAME / "1"
        code = (folder / "model.py").read_text()
        (folder / "model.py").write_text(code + RELEASE)
        (folder / "tag").write_text(str(tag))
        identity = {"id": f"{tag}", "run": f"/runs/{tag}", "export": f"{tag}", "as_of": 0}
        return Release(folder, folder / "model.py", folder.parent / "config.pbtxt", identity["run"], identity)

    return make


@pytest.fixture
def serve_folder(release, tmp_path, monkeypatch) -> Path:
    """A serve folder where release 1, tagged 1, is staged."""
    monkeypatch.setattr("ensemble.rollout.checked_release", lambda run: release(1))
    monkeypatch.setattr("ensemble.served_repository.SERVED_MODELS", ())
    prepared_repository(Path("/runs/1"), tmp_path / "serve", CONFIG)
    return tmp_path / "serve"


@pytest.fixture
def server(serve_folder):
    with TritonServer(serve_folder / "models", serve_folder, CONFIG) as server:
        yield server


@pytest.fixture
def rollout(server, serve_folder) -> Rollout:
    repository = ServedRepository.opened(serve_folder)
    return Rollout(repository, server.control, ReleaseCheck(server.control, ["u"], patience_seconds=1))


class Callers:
    """Threads that ask without a pause, over gRPC and HTTP, and keep what they got."""

    def __init__(
        self,
        server: TritonServer,
        num_grpc: int = 4,
        num_http: int = 2,
        num_users: int = 3,
    ) -> None:
        self._stop = threading.Event()
        self.errors: list[str] = []
        self.tags: list[tuple[float, frozenset[float]]] = []
        self.num_users = num_users
        urls = [(server.grpc_url, "grpc")] * num_grpc + [(server.http_url, "http")] * num_http
        self._threads = [threading.Thread(target=self._ask, args=(number, *url)) for number, url in enumerate(urls)]

    def _ask(self, number: int, url: str, protocol: str) -> None:
        with RecommendClient(url, protocol, timeout_seconds=20) as client:
            for turn in itertools.count():
                if self._stop.is_set():
                    return
                users = [f"{number}-{turn}-{user}" for user in range(self.num_users)]
                try:
                    reply = client.recommend(users, k=4)
                except Exception as error:
                    self.errors.append(f"{type(error).__name__}: {error}")
                    continue
                expected = [[f"{user}-{item}" for item in range(4)] for user in users]
                if reply.item_ids.tolist() != expected:
                    self.errors.append(f"{users} got {reply.item_ids.tolist()}")
                self.tags.append((time.monotonic(), frozenset(reply.scores.ravel().tolist())))

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def seen(self, since: float = 0.0) -> Counter:
        return Counter(tags for when, tags in list(self.tags) if when >= since)


def one(tag):
    return frozenset([float(tag)])


def test_no_request_fails_while_releases_change_and_each_reply_is_of_one_release(server, rollout, release):
    with Callers(server) as callers:
        time.sleep(0.5)
        for tag in (2, 3):
            rollout.deploy(release(tag))
            moved = time.monotonic()
            time.sleep(0.5)
            assert set(callers.seen(moved + 0.2)) == {one(tag)}, "the new release answers everybody"
        rollout.rollback()
        moved = time.monotonic()
        time.sleep(0.5)
        assert set(callers.seen(moved + 0.2)) == {one(2)}
        rollout.rollback()
        time.sleep(0.5)
    assert not callers.errors
    assert set(callers.seen()) == {one(1), one(2), one(3)}
    assert len(callers.tags) > 200
    state = read_state(rollout.repository.serve_folder)
    assert state and state.live == Live(stable=1) and not state.before
    with pytest.raises(RolloutError, match="nothing is known of what was live before"):
        rollout.rollback()


def test_a_release_that_takes_long_to_load_holds_up_nobody(server, rollout, release):
    """Asked to load over HTTP, Triton answers nobody whose connection is on the same one of its threads."""
    connections = [http.client.HTTPConnection(*server.http_url.split(":"), timeout=30) for _ in range(16)]
    with contextlib.ExitStack() as opened:
        for connection in connections:
            opened.callback(connection.close)
            alive(connection)
        deployment = threading.Thread(target=rollout.deploy, args=(release(7),))
        deployment.start()
        time.sleep(1.5)
        assert deployment.is_alive()
        seconds = [alive(connection) for connection in connections]
        assert deployment.is_alive(), "all of them were asked while it loaded"
        deployment.join()
    assert max(seconds) < 1
    with RecommendClient(server.grpc_url) as client:
        assert client.recommend(["u"]).scores[0, 0] == 7


def alive(connection):
    """Seconds that Triton took to say that it lives."""
    begun = time.monotonic()
    connection.request("GET", "/v2/health/live")
    assert connection.getresponse().read() == b""
    return time.monotonic() - begun


def test_a_version_that_stays_is_not_loaded_anew(server, rollout, release):
    def processes():
        import subprocess

        lines = subprocess.run(["ps", "-ww", "-eo", "pid=,args="], capture_output=True, text=True).stdout.splitlines()
        marked = f"models/{MODEL_NAME}/{version_of(1)}/model.py"
        root = str(rollout.repository.serve_folder)
        return [line.split()[0] for line in lines if marked in line and root in line]

    before = processes()
    assert len(before) == 1
    rollout.deploy(release(2), "canary", 0.5)
    assert processes() == before
    rollout.rollback()
    assert processes() == before


@pytest.mark.parametrize(
    ("tag", "error", "message"),
    [(-1, ControlError, "the artifacts are broken"), (13, RolloutError, "no better than none: user 'u' gets")],
)
def test_a_release_that_cannot_be_loaded_or_answers_badly_gets_no_request(
    server, rollout, release, tag, error, message
):
    with Callers(server) as callers:
        with pytest.raises(error, match=message):
            rollout.deploy(release(tag))
        time.sleep(0.5)
    assert not callers.errors and set(callers.seen()) == {one(1)}
    state = read_state(rollout.repository.serve_folder)
    assert state and state.live == Live(stable=1) and state.last_release == 1
    assert rollout.repository.staged_versions() == [version_of(1)]
    rollout.deploy(release(2))  # nothing is left in the way
    with RecommendClient(server.grpc_url) as client:
        assert client.recommend(["u"]).scores[0, 0] == 2


def test_a_canary_answers_its_users_and_no_others_and_grows_without_losing_any(server, rollout, release):
    with Callers(server) as callers, RecommendClient(server.grpc_url) as client:
        rollout.deploy(release(2), "canary", 0.3, "spring")
        users = [f"user-{number}" for number in range(60)]
        expected = [2 if place("spring", user) < 0.3 else 1 for user in users]
        reply = client.recommend(users, k=[1 + number % 5 for number in range(60)])
        assert 5 < expected.count(2) < 40, "users of one call are of both arms"
        assert reply.scores[:, 0].tolist() == expected
        assert [len([i for i in row if i]) for row in reply.item_ids] == [1 + number % 5 for number in range(60)]
        assert [client.recommend([user]).scores[0, 0] for user in users[:20]] == expected[:20]
        rollout.deploy(release(2), "canary", 0.6)
        expected = [2 if place("spring", user) < 0.6 else 1 for user in users]
        assert client.recommend(users).scores[:, 0].tolist() == expected, "the same experiment, the same salt"
        rollout.deploy(release(2))
        moved = time.monotonic()
        time.sleep(0.5)
    assert not callers.errors
    assert set(callers.seen(moved + 0.2)) == {one(2)}
    state = read_state(rollout.repository.serve_folder)
    assert state and state.live == Live(stable=2) and [live.share for live in state.before] == [0.3, 0.6]
    assert rollout.rollback().live.share == 0.6, "back to the larger canary, with a router of its own"


def test_a_mistake_of_the_caller_is_named_with_its_row_although_the_call_is_split(server, rollout, release):
    import tritonclient.grpc as triton

    rollout.deploy(release(2), "canary", 0.5, "spring")
    users = [f"user-{number}" for number in range(12)]
    tensors = [triton.InferInput("user_id", [12, 1], "BYTES"), triton.InferInput("k", [12, 1], "INT32")]
    tensors[0].set_data_from_numpy(np.array(users, dtype=object)[:, None])
    k = np.full((12, 1), 3, np.int32)
    k[9] = 0
    tensors[1].set_data_from_numpy(k)
    with pytest.raises(triton.InferenceServerException, match=r"k row 9 must be 1..1000") as caught:
        triton.InferenceServerClient(server.grpc_url).infer(MODEL_NAME, tensors)
    assert caught.value.status() == "StatusCode.INVALID_ARGUMENT"


def test_a_candidate_that_fails_costs_nobody_an_answer(server, rollout, release):
    with Callers(server) as callers:
        rollout.deploy(release(14), "canary", 0.5)
        time.sleep(1)
    assert not callers.errors and set(callers.seen()) == {one(1)}
    assert "the candidate failed" in server.log_path.read_text()


def test_a_shadow_is_asked_and_answers_nobody(server, rollout, release):
    with Callers(server) as callers:
        rollout.deploy(release(2), "shadow", 1.0)
        before = requests_of(server, 2)
        time.sleep(1)
    assert not callers.errors and set(callers.seen()) == {one(1)}
    assert requests_of(server, 2) > before + 20


def requests_of(server, release):
    import urllib.request

    url = f"http://{server.http_url}/v2/models/{MODEL_NAME}/versions/{version_of(release)}/stats"
    with urllib.request.urlopen(url) as answer:
        return json.loads(answer.read())["model_stats"][0]["inference_stats"]["success"]["count"]


def test_what_was_live_is_live_after_a_restart_split_and_all(release, serve_folder):
    with TritonServer(serve_folder / "models", serve_folder, CONFIG) as server:
        Rollout(ServedRepository.opened(serve_folder), server.control).deploy(release(2), "canary", 0.5, "spring")
    prepared_repository(Path("/runs/1"), serve_folder, CONFIG)
    with (
        TritonServer(serve_folder / "models", serve_folder, CONFIG) as server,
        RecommendClient(server.grpc_url) as client,
    ):
        users = [f"user-{number}" for number in range(20)]
        expected = [2 if place("spring", user) < 0.5 else 1 for user in users]
        assert client.recommend(users).scores[:, 0].tolist() == expected


def test_without_a_server_a_deployment_is_live_at_the_next_start(release, serve_folder):
    repository = prepared_repository(Path("/runs/1"), serve_folder, CONFIG)
    Rollout(repository, None).deploy(release(2))
    with (
        TritonServer(serve_folder / "models", serve_folder, CONFIG) as server,
        RecommendClient(server.grpc_url) as client,
    ):
        assert client.recommend(["u"]).scores[0, 0] == 2


def test_another_batch_size_comes_with_its_release_and_no_request_fails(server, rollout, release):
    other = release(2)
    other.model_config.write_text(triton_config(max_batch_size=2, num_instances=1, max_queue_delay_microseconds=0))
    with Callers(server, num_users=2) as callers:
        rollout.deploy(replace(other, identity=other.identity))
        time.sleep(0.5)
        rollout.rollback()
        time.sleep(0.5)
    assert not callers.errors and set(callers.seen()) == {one(1), one(2)}
