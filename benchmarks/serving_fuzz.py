"""Do 100,000 random and adversarial requests break the server? Model in process, real Triton over gRPC and over HTTP.

Nine in ten go to the model class in process, the rest to a Triton. A request is right if it is answered, or refused
with a type: INVALID_ARGUMENT (400) whose message says what is wrong, or Triton's own refusal. It is a finding if the
server crashes, stays silent, or calls the caller's mistake a failure of its own. Between them a good request must get
the same reply as at the start.

Prints one JSON line a target: python benchmarks/serving_fuzz.py [RUN_FOLDER] [NUM_REQUESTS]
"""

from __future__ import annotations

import http.client
import json
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import numpy as np
from fuzz_requests import INT_EXTREMES, NUMBER_TEXTS, RAW_IDS, WORDS, bad_bytes, bad_json, good_request
from serving_measure import fresh_server, serving_run
from tritonclient.grpc import service_pb2

from ensemble.config import ServingConfig
from ensemble.triton_model import TritonPythonModel

METHOD = "/inference.GRPCInferenceService/ModelInfer"
TIMEOUT_SECONDS = 20.0
GOOD_EVERY = 250
IN_PROCESS_SHARE = 0.9
HTTP_SHARE = 0.3
"""Of those that go to a Triton."""
FIELDS = ("user_id", "k ", "exclude", "allow", "timestamp", "seed", "temperature", "diversity", "timeout_ms")
FIELDS += ("request parameter", "the request id")
TYPED = {"OK", "INVALID_ARGUMENT", "NOT_FOUND", "UNIMPLEMENTED", "RESOURCE_EXHAUSTED", "ALREADY_EXISTS"}
"""Replies and refusals that say whose mistake it was."""
_NO_MESSAGE = "Unable to parse request"
"""What gRPC itself says of bytes that are no message, with the status INTERNAL."""
_NO_DOCUMENT = ("Unable to parse", "failed to parse the request JSON")
"""What Triton says of JSON that is none or of another form, with the status 500; 501 is for compressions it lacks."""


class FindingError(AssertionError):
    """A request that the server did not treat as it should; the message names the seed and the number."""


def fuzz_model(model: TritonPythonModel, num_requests: int, seed: int) -> Counter[str]:
    """Values that Triton would let through to the model, in calls of one to four joined requests.

    Returns: answers by kind. Raises: FindingError.
    """
    rng = np.random.default_rng(seed)
    counts: Counter[str] = Counter()
    while counts.total() < num_requests:
        requests = [_model_request(rng) for _ in range(min(rng.integers(1, 5), num_requests - counts.total()))]
        try:
            responses = model.execute(requests)
        except BaseException as error:
            raise FindingError(f"seed {seed}, request {counts.total()}: execute raised {error!r}") from error
        for request, response in zip(requests, responses, strict=True):
            counts[_judged(request, response, f"seed {seed}, request {counts.total()}")] += 1
    return counts


def _judged(request: SimpleNamespace, response: Any, where: str) -> str:
    if response.error is None:
        users = len(request.tensors["user_id"])
        if any(len(tensor.values) != users for tensor in response.output_tensors):
            raise FindingError(f"{where}: a reply must have {users} rows")
        return "answered"
    code, message = response.error
    if code != "INVALID_ARG" or not message.startswith(FIELDS):
        raise FindingError(
            f"{where}: must be refused with INVALID_ARG and the field's name, got {code}: {message[:300]}"
        )
    return f"refused: {next(field.strip() for field in FIELDS if message.startswith(field))}"


def _model_request(rng: np.random.Generator) -> SimpleNamespace:
    size = int(rng.integers(1, 6))
    tensors = {"user_id": _texts(rng, (size, 1))}
    if rng.random() < 0.7:
        tensors["k"] = rng.choice([1, 2, 5], (size, 1)).astype(np.int32)
    if rng.random() < 0.2:
        tensors["k"] = np.clip(rng.choice(INT_EXTREMES, (size, 1)), -(2**31), 2**31 - 1).astype(np.int32)
    if rng.random() < 0.3:
        tensors["timestamp"] = rng.choice([*INT_EXTREMES, 1_700_000_000], (size, 1)).astype(np.int64)
    for name in ("exclude", "allow"):
        if rng.random() < 0.3:
            width = int(rng.choice([0, 1, 7, 300])) if rng.random() < 0.99 else int(rng.choice([10_000, 10_001]))
            tensors[name] = _texts(rng, (size, width)) if width < 1000 else np.full((size, width), b"item", object)
    parameters = {}
    if rng.random() < 0.4:
        odd = [*INT_EXTREMES, *NUMBER_TEXTS, True, None, 0.5, -0.5, float("nan"), float("inf"), [], {}, [1], {"a": 1}]
        name = ("seed", "temperature", "diversity", "timeout_ms", *WORDS)[rng.integers(4 + len(WORDS))]
        parameters[name] = odd[rng.integers(len(odd))]
    request_id = ("", "id", "a" * 128, "a" * 129, "\0", "é" * 128)[rng.integers(6)]
    outputs = [["item_ids", "source"], ["item_ids", "scores", "propensities", "source", "candidate_ids"]][
        rng.integers(2)
    ]
    return SimpleNamespace(
        tensors=tensors,
        inputs=lambda: [
            SimpleNamespace(name=lambda n=name: n, as_numpy=lambda v=values: v) for name, values in tensors.items()
        ],
        parameters=lambda: json.dumps(parameters),
        request_id=lambda: request_id,
        requested_output_names=lambda: outputs,
    )


def _texts(rng: np.random.Generator, shape: tuple[int, int]) -> np.ndarray:
    """Ids as Triton gives them: mostly good ones, some odd, some random."""
    values = np.empty(shape[0] * shape[1], dtype=object)
    how = rng.random(len(values))
    is_odd = rng.random() < 0.3
    for place in range(len(values)):
        if not is_odd or how[place] < 0.7:
            values[place] = b"user-%d" % rng.integers(50)
        else:
            values[place] = RAW_IDS[rng.integers(len(RAW_IDS))] if how[place] < 0.9 else rng.bytes(4)
    return values.reshape(shape)


def model_in_process(recommender: Any, max_batch_size: int = 64) -> TritonPythonModel:
    """The model class with a stand-in for what Triton's interpreter brings."""
    model = TritonPythonModel()
    error = lambda message, code: (code, message)  # noqa: E731
    error.INVALID_ARG, error.INTERNAL = "INVALID_ARG", "INTERNAL"
    model.pb_utils = SimpleNamespace(
        TritonError=error,
        Tensor=lambda name, values: SimpleNamespace(name=name, values=values),
        InferenceResponse=lambda output_tensors, error=None: SimpleNamespace(
            output_tensors=output_tensors, error=error
        ),
    )
    model.max_batch_size = max_batch_size
    model.pipeline = recommender
    recommender.last_resort = None  # it would answer where the pipeline fails
    model.request_log = None
    model.config = ServingConfig()
    return model


def fuzz_grpc(url: str, num_requests: int, seed: int, users: list[bytes]) -> Counter[str]:
    """Requests as raw protobuf to a Triton. Returns: answers by status. Raises: FindingError."""
    counts: Counter[str] = Counter()
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1)]
    with grpc.insecure_channel(url, options=options) as channel:
        call = channel.unary_unary(METHOD)
        good = good_request(users).SerializeToString()
        expected = _outputs(call(good, timeout=TIMEOUT_SECONDS))
        for number in range(num_requests):
            where = f"gRPC, seed {seed}, request {number}"
            raw = bad_bytes(np.random.default_rng([seed, number]))
            try:
                call(raw, timeout=TIMEOUT_SECONDS)
                status, details = "OK", ""
            except grpc.RpcError as error:
                status, details = error.code().name, error.details() or ""
            if not _is_typed(status, details):
                raise FindingError(f"{where}: got {status}: {details[:300]}")
            counts[status] += 1
            if number % GOOD_EVERY == GOOD_EVERY - 1:
                _same(_outputs(call(good, timeout=TIMEOUT_SECONDS)), expected, where)
        _same(_outputs(call(good, timeout=TIMEOUT_SECONDS)), expected, "gRPC, at the end")
    return counts


def fuzz_http(url: str, num_requests: int, seed: int, users: list[bytes]) -> Counter[str]:
    """Bodies and headers to a Triton. Returns: answers by status. Raises: FindingError."""
    counts: Counter[str] = Counter()
    good = {
        "inputs": [
            {"name": "user_id", "datatype": "BYTES", "shape": [len(users), 1], "data": [u.decode() for u in users]}
        ],
        "outputs": [{"name": "item_ids"}, {"name": "source"}],
    }
    status, expected = _post(url, json.dumps(good).encode(), {})
    if status != 200:
        raise FindingError(f"HTTP: a good request got {status}: {expected[:300]!r}")
    for number in range(num_requests):
        rng = np.random.default_rng([seed, number])
        where = f"HTTP, seed {seed}, request {number}"
        body = bad_json(rng)
        try:
            status, answer = _post(url, body, _headers(rng, body))
        except (OSError, http.client.HTTPException) as error:
            status, answer = 0, repr(error).encode()
        if not _is_typed_http(status, answer):
            raise FindingError(f"{where}: got {status}: {answer[:300]!r} for {body[:300]!r}")
        counts[str(status)] += 1
        if number % GOOD_EVERY == GOOD_EVERY - 1:
            _same(_post(url, json.dumps(good).encode(), {}), (200, expected), where)
    _same(_post(url, json.dumps(good).encode(), {}), (200, expected), "HTTP, at the end")
    return counts


def _is_typed(status: str, details: str) -> bool:
    if status == "INTERNAL":
        return details == _NO_MESSAGE
    return status == "OK" or (status in TYPED and bool(details))


def _is_typed_http(status: int, answer: bytes) -> bool:
    try:
        refusal = "" if status == 200 else json.loads(answer)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    if status == 500:
        return refusal.startswith(_NO_DOCUMENT)
    return status == 501 or 200 <= status < 500


def _headers(rng: np.random.Generator, body: bytes) -> dict[str, str]:
    if rng.random() < 0.8:
        return {}
    odd = [
        {"Inference-Header-Content-Length": value}
        for value in ("0", "-1", str(len(body)), str(len(body) + 1), "9" * 30, "x", str(len(body) // 2))
    ]
    odd += [{"Content-Encoding": value} for value in ("gzip", "deflate", "br", "x")]
    odd += [{"Content-Type": "application/octet-stream"}, {"Accept-Encoding": "gzip"}]
    return odd[rng.integers(len(odd))]


def _post(url: str, body: bytes, headers: dict[str, str]) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(url, timeout=TIMEOUT_SECONDS)
    try:
        connection.request("POST", "/v2/models/cascade/infer", body, headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def _outputs(reply: bytes) -> list[bytes]:
    return list(service_pb2.ModelInferResponse.FromString(reply).raw_output_contents)


def _same(answer: Any, expected: Any, where: str) -> None:
    if answer != expected:
        raise FindingError(f"{where}: a good request got another reply than before")


def main(run: Path, num_requests: int) -> None:
    import pyarrow.parquet as pq

    from ensemble.pipeline import Pipeline
    from pipelines.server_memory import resident_bytes

    table = pq.read_table(run / "etl" / "users.parquet", columns=["raw_id"])
    users = [user.encode() for user in table["raw_id"].to_pylist()[:4]]
    in_process = round(num_requests * IN_PROCESS_SHARE)
    over_http = round((num_requests - in_process) * HTTP_SHARE)
    over_grpc = num_requests - in_process - over_http
    local = model_in_process(Pipeline.load(run / "export" / "repository" / "cascade" / "1"))
    _say("model in process", fuzz_model(local, in_process, seed=1))
    with fresh_server(run) as server:
        for name, fuzz, url, number in (
            ("Triton over gRPC", fuzz_grpc, server.grpc_url, over_grpc),
            ("Triton over HTTP", fuzz_http, server.http_url, over_http),
        ):
            fuzz(url, min(number // 10, 500), 2, users)  # what the first odd requests allocate for good
            before = resident_bytes(server.run_folder)
            counts = fuzz(url, number, 3, users)
            _say(name, counts, memory_ratio=round(resident_bytes(server.run_folder) / before, 4))
            server.raise_if_dead()


def _say(target: str, counts: Counter[str], **told: Any) -> None:
    line = {"benchmark": "serving_fuzz", "question": f"random and adversarial requests: {target}", "ours": 0, "peer": 0}
    line |= {"unit": "crashes, hangs and untyped refusals", "goal": 0, "better": "lower", "met": True}
    print(json.dumps(line | {"requests": counts.total(), "answers": dict(counts.most_common())} | told), flush=True)


if __name__ == "__main__":
    main(serving_run(sys.argv), int(sys.argv[2]) if len(sys.argv) > 2 else 100_000)
