"""Random and adversarial requests: answered, or refused with a type; never a crash, a hang or another's failure."""

import importlib.util
import json
import sys
from http.client import HTTPException
from pathlib import Path

import grpc
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.request import Reply, Request, RequestError
from ensemble.security_config import SecurityConfig
from ensemble.server import ServingConfig, TritonServer
from pipelines.server_memory import resident_bytes

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
USERS = [b"ann", "\U0001f600".encode()]


@pytest.fixture(scope="module")
def fuzzing():
    """The module benchmarks/serving_fuzz.py, which runs the same at full size."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        spec = importlib.util.spec_from_file_location("serving_fuzz", BENCHMARKS / "serving_fuzz.py")
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    finally:
        sys.path.remove(str(BENCHMARKS))
    return module


class FirstItems:
    """Items 0..k-1 for everybody: fast, and a failure where the checked request is not what it promises to be."""

    source_names = ()

    def recommend(self, request, trace):
        size, width = len(request), int(request.k.max())
        assert request.k.min() >= 1 and width <= 1000
        assert all(isinstance(user, str) and 1 <= len(user.encode()) <= 256 for user in request.user_id)
        for rows in (request.exclude, [ids for ids in request.allow if ids is not None]):
            assert all(isinstance(item, str) and item for ids in rows for item in ids)
        assert request.timestamp.dtype == request.seed.dtype == np.int64
        for values, high in ((request.temperature, 1000), (request.diversity, 1)):
            assert (np.isnan(values) | ((values >= 0) & (values <= high))).all()
        assert not np.isnan(request.deadline).any()
        items = np.tile(np.arange(width).astype(str).astype(object), (size, 1))
        ones = np.ones((size, width), np.float32)
        nothing = np.empty((size, 0), dtype=object)
        return Reply(items, ones, ones, np.full(size, "cold", dtype=object), nothing, nothing)


@pytest.mark.parametrize(
    ("num_requests", "seed"), [(2_000, 1), pytest.param(90_000, 2, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_the_model_answers_or_refuses_by_name(fuzzing, num_requests, seed):
    counts = fuzzing.fuzz_model(fuzzing.model_in_process(FirstItems()), num_requests, seed)
    assert counts.total() == num_requests
    assert counts["answered"] > num_requests / 20  # good and bad ones are joined with each other
    assert {f"refused: {name}" for name in ("user_id", "k", "timestamp", "seed", "request parameter")} <= set(counts)


def test_a_request_that_breaks_the_model_is_a_finding(fuzzing):
    class Broken:
        source_names = ()

        def recommend(self, request, trace):
            raise ZeroDivisionError("of ours")

    with pytest.raises(fuzzing.FindingError, match="must be refused with INVALID_ARG"):
        fuzzing.fuzz_model(fuzzing.model_in_process(Broken()), 200, seed=3)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: st.lists(inner, max_size=4) | st.tuples(inner, inner) | st.dictionaries(st.text(), inner, max_size=2),
    max_leaves=8,
)


@settings(max_examples=400, deadline=None)
@given(
    user_ids=anything | st.just(["ann"]),
    k=anything | st.just(3),
    exclude=anything | st.none(),
    timestamp=anything | st.none(),
    allow=anything | st.none(),
    seed=anything | st.none(),
    temperature=anything | st.none(),
    diversity=anything | st.none(),
    timeout_ms=anything | st.none(),
)
def test_any_values_at_all_make_a_request_or_a_request_error(user_ids, k, exclude, timestamp, **others):
    try:
        request = Request.of(user_ids, k, exclude, timestamp, **others)
    except RequestError as error:
        message = str(error)
    else:
        message = ""
        FirstItems().recommend(request, None)
    assert len(message) < 1_000


@pytest.mark.triton
@pytest.mark.parametrize(
    "num_requests", [150, pytest.param(7_000, marks=[pytest.mark.slow, pytest.mark.timeout(3600)])]
)
def test_a_real_triton_answers_or_refuses_and_goes_on(fuzzing, num_requests, stand_in_repository, tmp_path):
    """Triton itself, its Python backend and our model with a stand-in for the pipeline; bytes, not clients."""
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(stand_in_repository(), tmp_path, config) as server:
        counts = fuzzing.fuzz_grpc(server.grpc_url, num_requests, 1, USERS)
        before = resident_bytes(tmp_path)
        counts = fuzzing.fuzz_grpc(server.grpc_url, num_requests, 2, USERS)
        assert counts["INVALID_ARGUMENT"] > num_requests / 3
        over_http = fuzzing.fuzz_http(server.http_url, num_requests // 2, 3, USERS)
        assert over_http["400"] > num_requests / 20 and over_http["500"] > num_requests / 20
        server.raise_if_dead()
        assert resident_bytes(tmp_path) < 1.2 * before


CLAIMS_TOO_MUCH = json.dumps(
    {
        "inputs": [
            {"name": "user_id", "datatype": "BYTES", "shape": [1, 1], "data": ["ann"]},
            {"name": "k", "datatype": "INT32", "shape": [1, 2**40], "data": [3]},
        ]
    }
).encode()


@pytest.mark.triton
@pytest.mark.parametrize("wanted", ["open", "key"])
def test_the_key_keeps_out_the_one_request_that_ends_triton(wanted, fuzzing, stand_in_repository, tmp_path):
    """Over HTTP Triton 2.51 makes room for as many numbers as a shape claims. Once it refuses, drop http_inference."""
    security = SecurityConfig(http_inference=wanted)
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, security=security)
    with TritonServer(stand_in_repository(), tmp_path, config) as server:
        if wanted == "key":
            status, answer = fuzzing._post(server.http_url, CLAIMS_TOO_MUCH, {})
            assert status == 403 and b"restricted" in answer
            assert fuzzing.fuzz_grpc(server.grpc_url, 10, 1, USERS).total() == 10  # gRPC needs no key
            assert server.is_alive
        else:
            with pytest.raises((OSError, HTTPException)):
                fuzzing._post(server.http_url, CLAIMS_TOO_MUCH, {})
            server._process.wait(20)


@pytest.mark.triton
def test_a_text_output_asked_for_as_classes_still_ends_triton(fuzzing, stand_in_repository, tmp_path):
    """The one request over gRPC that does; once Triton refuses it, drop this test and let the generator send it."""
    request = fuzzing.good_request(USERS)
    request.outputs[0].parameters["classification"].int64_param = 1
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(stand_in_repository(), tmp_path, config) as server:
        with grpc.insecure_channel(server.grpc_url) as channel, pytest.raises(grpc.RpcError):
            channel.unary_unary(fuzzing.METHOD)(request.SerializeToString(), timeout=20)
        server._process.wait(20)


@pytest.mark.parametrize(
    ("host", "wanted", "is_open"),
    [
        ("127.0.0.1", "auto", True),
        ("0.0.0.0", "auto", False),
        ("0.0.0.0", "open", True),
        ("127.0.0.1", "key", False),
    ],
)
def test_http_is_open_on_this_machine_alone(host, wanted, is_open, tmp_path):
    config = ServingConfig(host=host, security=SecurityConfig(http_inference=wanted))
    over_http, over_grpc = TritonServer(tmp_path, tmp_path, config)._restrictions()
    assert ("inference" not in over_http) == is_open
    assert "model-repository" in over_http and "inference" not in over_grpc
