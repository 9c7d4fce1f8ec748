"""Cached slates on a real Triton: the fallback model answers where the pipeline's model cannot, and alone."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemble.cache_config import SLATES, CacheConfig
from ensemble.client import ModelUnavailable, RecommendClient, ServerFailure, ServerUnavailable
from ensemble.config import ServingConfig
from ensemble.fallback_repository import NoSlatesError, cached_repository
from ensemble.process_group import group_members
from ensemble.request import RequestError
from ensemble.rollout import prepared_repository
from ensemble.server import TritonServer
from ensemble.slate_cache import SlateCache
from ensemble.triton_config import FALLBACK_MODEL_NAME, MODEL_NAME
from pipelines.__main__ import main

pytestmark = pytest.mark.triton

PORTS = {"http_port": 0, "grpc_port": 0, "metrics_port": 0, "ready_timeout_seconds": 180.0}
K = 10
HEAVY = ("torch", "faiss", "onnxruntime", "feast", "merlin")


@pytest.fixture(scope="module")
def slates(small_run, tmp_path_factory) -> Path:
    """Slates of every user, made by the command."""
    file = tmp_path_factory.mktemp("slates") / SLATES
    assert main(["cache", "build", "--run", str(small_run), "--k", "30", "--serving.cache.file", str(file)]) == 0
    return file


@pytest.fixture(scope="module")
def users(small_run) -> list[str]:
    table = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id", "num_events"])
    order = np.argsort(-table["num_events"].to_numpy(), kind="stable")
    return [table["raw_id"].to_pylist()[row] for row in order[:6]]


@pytest.fixture(scope="module")
def server(small_run, slates, tmp_path_factory):
    folder = tmp_path_factory.mktemp("serve")
    config = ServingConfig(cache=CacheConfig(file=str(slates)), **PORTS)
    repository = prepared_repository(small_run, folder, config)
    with TritonServer(repository.folder, folder, config) as server:
        yield server


def process_of(server: TritonServer, model: str) -> int:
    """The process of a model."""
    [pid] = [
        pid
        for pid in group_members(server.pid or 0)
        if f"/{model}/".encode() in Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ") and pid != server.pid
    ]
    return pid


def ids(row) -> list[str]:
    return [item for item in row.tolist() if item]


def test_the_command_writes_what_is_served_without_sampling(small_run, slates, users, server):
    item_ids: list[str] = []

    def rows_of(ids: np.ndarray) -> np.ndarray:
        item_ids.extend(ids)
        return np.arange(len(ids))

    cache = SlateCache(slates, rows_of)
    assert cache.about["k"] == 30 and cache.about["made_at"] <= time.time()
    with RecommendClient(server.grpc_url, timeout_seconds=60) as client:
        reply = client.recommend(users, k=30, temperature=0)
    for user, served in zip(users, reply.item_ids, strict=True):
        found = cache.slate_of(user)
        assert found is not None and [item_ids[row] for row in found.row_n] == ids(served)
        assert len(found.seen_row) and set(found.seen_row).isdisjoint(found.row_n)


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_where_the_model_is_not_there_the_client_gets_cached_slates(server, users, protocol):
    with (
        RecommendClient(getattr(server, f"{protocol}_url"), protocol, timeout_seconds=60) as client,
        RecommendClient(getattr(server, f"{protocol}_url"), protocol, 60, with_fallback=False) as strict,
    ):
        before = client.recommend(users, k=K, temperature=0)
        assert client.num_fallbacks == 0
        server.control.unload(MODEL_NAME)
        try:
            wait_until(lambda: not server.control.is_ready(MODEL_NAME))
            excluded = before.item_ids[0, :2].tolist()
            reply = client.recommend([*users, "stranger"], k=K, exclude=[excluded] * 7, with_candidates=True)
            assert reply.source.tolist() == ["cached"] * 6 + ["degraded"] and client.num_fallbacks == 1
            for row in range(6):
                expected = [item for item in ids(before.item_ids[row]) if item not in excluded]
                assert ids(reply.item_ids[row])[: len(expected)] == expected
            assert all(len(set(ids(row))) == K and set(ids(row)).isdisjoint(excluded) for row in reply.item_ids)
            with pytest.raises(ModelUnavailable, match="no model that is ready"):
                strict.recommend(users)
            with pytest.raises(RequestError):
                client.recommend(users, k=10, timeout_ms=10, seed=-1)
        finally:
            server.control.load(MODEL_NAME)
        assert client.recommend(users, k=K, temperature=0).item_ids.tolist() == before.item_ids.tolist()
        assert client.num_fallbacks == 1


def test_the_fallbacks_process_is_light(server):
    with RecommendClient(server.grpc_url, timeout_seconds=60) as client:
        client.recommend(["anybody"])
    process = Path(f"/proc/{process_of(server, FALLBACK_MODEL_NAME)}")
    mapped = process.joinpath("maps").read_text()
    assert not [name for name in HEAVY if f"/{name}" in mapped]
    resident = int(process.joinpath("status").read_text().split("VmRSS:")[1].split()[0])
    assert resident < 250_000, f"{resident / 1e3:.0f} MB"


def test_a_server_that_is_not_there_is_no_case_for_the_fallback(users):
    with RecommendClient("127.0.0.1:9", timeout_seconds=2) as client:
        with pytest.raises(ServerUnavailable) as failed:
            client.recommend(users)
        assert not isinstance(failed.value, ModelUnavailable) and client.num_fallbacks == 0


def test_when_the_models_process_is_killed_calls_get_cached_slates(server, users):
    """The last test: this server's model stays dead."""
    with RecommendClient(server.grpc_url, timeout_seconds=20) as client:
        client.recommend(users, k=K)
        os.kill(process_of(server, MODEL_NAME), signal.SIGKILL)
        reply = client.recommend(users, k=K)
        assert reply.source.tolist() == ["cached"] * 6 and client.num_fallbacks == 1
        client.with_fallback = False
        with pytest.raises((ServerFailure, ServerUnavailable)):
            client.recommend(users)


def test_served_alone_cached_slates_need_neither_pipeline_nor_index(small_run, slates, users, tmp_path):
    config = ServingConfig(cache=CacheConfig(mode="only", file=str(slates)), **PORTS)
    repository = cached_repository(small_run, tmp_path, config)
    begun = time.monotonic()
    with TritonServer(repository, tmp_path, config) as server, RecommendClient(server.grpc_url) as client:
        assert time.monotonic() - begun < 60
        reply = client.recommend([users[0], "stranger"], k=K)
        assert reply.source.tolist() == ["cached", "fallback"] and client.num_fallbacks == 0
        process = Path(f"/proc/{process_of(server, MODEL_NAME)}")
        assert not [name for name in HEAVY if f"/{name}" in process.joinpath("maps").read_text()]


def test_there_must_be_slates_to_serve_alone(small_run, tmp_path):
    with pytest.raises(NoSlatesError, match="cascade cache build"):
        cached_repository(small_run, tmp_path, ServingConfig(cache=CacheConfig(mode="only")))


def wait_until(happens, seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.05)
