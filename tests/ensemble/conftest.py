"""A Triton model with a known answer in place of the pipeline, for the tests of the serving edge; and a client."""

from collections.abc import Callable
from pathlib import Path

import pytest

from ensemble.client import RecommendClient
from ensemble.triton_config import MODEL_NAME, triton_config

STAND_IN = '''
import time

import numpy as np

from ensemble.request import Reply, RequestError
from ensemble.triton_model import TritonPythonModel as Served


class StandIn:
    """Twelve items a user, named user-number, less the excluded; the timestamp is the score."""

    source_names = feature_names = ()
    last_resort = None

    def recommend(self, request, trace):
        if "boom" in request.user_id:
            raise RuntimeError("the store is on fire")
        if "unwelcome" in request.user_id:
            raise RequestError("user_id row 0 is unwelcome; go away")
        if any(user.startswith("slow") for user in request.user_id):
            time.sleep(0.04)
        if any(user.startswith("forever") for user in request.user_id):
            time.sleep(1000)
        shape = len(request), int(request.k.max())
        items = np.full(shape, "", dtype=object)
        scores = np.full(shape, -np.inf, dtype=np.float32)
        propensities = np.zeros(shape, dtype=np.float32)
        candidates = np.full((len(request), 12), "", dtype=object)
        for row, user in enumerate(request.user_id):
            allowed = [f"{user}-{n}" for n in range(12) if f"{user}-{n}" not in set(request.exclude[row])]
            candidates[row, : len(allowed)] = allowed
            slate = allowed[: request.k[row]]
            items[row, : len(slate)] = slate
            scores[row, : len(slate)] = request.timestamp[row]
            propensities[row, : len(slate)] = 1
        source = np.full(len(request), "personal", dtype=object)
        return Reply(items, scores, propensities, source, candidates, candidates[:, ::-1])


class TritonPythonModel(Served):
    def load_pipeline(self, version_dir):
        if (version_dir / "broken").exists():
            raise RuntimeError("the artifacts are broken")
        if (version_dir / "endless").exists():
            time.sleep(1000)
        return StandIn()
'''


@pytest.fixture(scope="module")
def client(server):
    """A client of the server that a test file starts."""
    with RecommendClient(server.grpc_url, timeout_seconds=60) as client:
        yield client


@pytest.fixture(scope="session")
def stand_in_repository(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that makes a model repository with the stand-in; names given to it are files it acts on."""

    def make(*marks: str) -> Path:
        repository = tmp_path_factory.mktemp("repository")
        version = repository / MODEL_NAME / "1"
        version.mkdir(parents=True)
        (version / "model.py").write_text(STAND_IN)
        for mark in marks:
            (version / mark).touch()
        (repository / MODEL_NAME / "config.pbtxt").write_text(
            triton_config(max_batch_size=64, num_instances=1, max_queue_delay_microseconds=0)
        )
        return repository

    return make
