"""The exported pipeline on a real Triton: the same replies as in process, whoever else asks and whatever they send."""

import shutil
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from ensemble.client import RecommendClient
from ensemble.pipeline import Pipeline
from ensemble.request import MAX_EXCLUDE, MAX_ID_BYTES, Request, RequestError
from ensemble.server import ServingConfig, TritonServer
from ensemble.triton_config import MODEL_NAME

pytestmark = pytest.mark.triton

FIELDS = ("item_ids", "scores", "propensities", "source", "candidate_ids", "ranked_ids")
ONE_A_USER = {"k": ("INT32", np.int32), "timestamp": ("INT64", np.int64)}


@pytest.fixture(scope="module")
def repository(small_run, tmp_path_factory):
    """A copy of the exported repository: a test breaks its store."""
    return shutil.copytree(small_run / "export/repository", tmp_path_factory.mktemp("served") / "repository")


@pytest.fixture(scope="module")
def server(repository, tmp_path_factory):
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, ready_timeout_seconds=180)
    with TritonServer(repository, tmp_path_factory.mktemp("serve"), config) as server:
        yield server


@pytest.fixture(scope="module")
def asked(small_run):
    """Arguments of `recommend` for 64 users of all kinds, each with its own k, exclude list and time."""
    rng = np.random.default_rng(2)
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    items = pq.read_table(small_run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    return {
        "user_ids": [*rng.choice(users, 61).tolist(), "stranger", "\U0001f600", "stranger"],
        "k": rng.choice([1, 2, 10, 21, 90], 64).tolist(),
        "exclude": [rng.choice(items, rng.integers(0, 40)).tolist() for _ in range(64)],
        "timestamp": rng.integers(1_700_000_000, 1_720_000_000, 64).tolist(),
    }


def user(asked, row):
    return {name: values[row : row + 1] for name, values in asked.items()}


def assert_equal_replies(reply, expected):
    for name in FIELDS:
        one, other = getattr(reply, name), getattr(expected, name)
        assert one.dtype == other.dtype and one.shape == other.shape, name
        np.testing.assert_array_equal(one, other, err_msg=name)


def test_64_users_in_one_call_equal_64_calls_and_the_same_graph_in_process(client, repository, asked):
    together = client.recommend(**asked, with_candidates=True)
    local = Pipeline.load(repository / MODEL_NAME / "1").recommend(Request.of(**asked, with_candidates=True))
    assert_equal_replies(together, local)
    for row in range(64):
        alone = client.recommend(**user(asked, row), with_candidates=True)
        assert_equal_replies(together.rows(slice(row, row + 1), asked["k"][row]), alone)


def test_http_and_grpc_give_the_same(server, client, asked):
    with RecommendClient(server.http_url, "http", timeout_seconds=60) as other:
        for arguments in (asked, user(asked, 0), user(asked, 61)):
            expected = client.recommend(**arguments, with_candidates=True)
            assert_equal_replies(other.recommend(**arguments, with_candidates=True), expected)


def test_concurrent_callers_get_their_own_answers(server, client, asked):
    expected = [client.recommend(**user(asked, row)) for row in range(64)]

    def call(worker):
        with RecommendClient(server.grpc_url, timeout_seconds=60) as own:
            rows = np.random.default_rng(worker).permutation(64)[:24].tolist()
            return [(row, own.recommend(**user(asked, row), with_candidates=row % 2 == 0)) for row in rows]

    with ThreadPoolExecutor(8) as pool:
        for answers in pool.map(call, range(8)):
            for row, reply in answers:
                assert bool(reply.candidate_ids.shape[1]) == (row % 2 == 0)
                assert_equal_replies(reply.rows(slice(0, 1), asked["k"][row], False), expected[row])


def ask(server, user_id, protocol=grpc, datatype="BYTES", **more):
    """A call with tensors as they come, past every check of our client."""
    tensors = {
        "user_id": (datatype, user_id),
        **{name: (ONE_A_USER.get(name, ("BYTES",))[0], v) for name, v in more.items()},
    }
    inputs = []
    for name, (kind, values) in tensors.items():
        inputs.append(protocol.InferInput(name, list(values.shape), kind))
        inputs[-1].set_data_from_numpy(values)
    url = server.grpc_url if protocol is grpc else server.http_url
    with protocol.InferenceServerClient(url) as triton:
        return triton.infer(MODEL_NAME, inputs)


def texts(*rows):
    return np.array(rows, dtype=object)


def number(value, dtype=np.int32):
    return np.array([[value]], dtype=dtype)


BAD = {
    "empty id": ((texts([b""]),), {}, "user_id row 0 must be an id"),
    "over-long id": ((texts([b"x" * (MAX_ID_BYTES + 1)]),), {}, "may have at most 256 bytes, got 257"),
    "not UTF-8": ((texts([b"\xff\xfe"]),), {}, "user_id row 0 must be UTF-8"),
    "excluded not UTF-8": (
        (texts([b"u"]),),
        {"exclude": texts([b"a", b"\xff"])},
        "exclude row 0, entry 1 must be UTF-8",
    ),
    "too many excluded": ((texts([b"u"]),), {"exclude": texts([b"a"] * (MAX_EXCLUDE + 1))}, "at most 10000 item ids"),
    "k of 0": ((texts([b"u"]),), {"k": number(0)}, "k row 0 must be 1..1000, got 0"),
    "negative k": ((texts([b"u"]),), {"k": number(-5)}, "k row 0 must be 1..1000, got -5"),
    "k too large": ((texts([b"u"]),), {"k": number(1_001)}, "k row 0 must be 1..1000, got 1001"),
    "milliseconds": ((texts([b"u"]),), {"timestamp": number(1_700_000_000_000, np.int64)}, "not milliseconds"),
    "no user": ((np.empty((0, 1), dtype=object),), {}, "expected 1 string elements"),
    "too many users": ((texts(*[[b"u"]] * 65),), {}, "batch-size must be <= 64"),
    "one dimension": ((texts(b"u"),), {}, "unexpected shape|must be"),
    "three dimensions": ((texts([[b"u"]]),), {}, "unexpected shape"),
    "two ids a row": ((texts([b"u", b"v"]),), {}, "unexpected shape"),
    "k of another length": ((texts([b"u"], [b"v"]),), {"k": number(5)}, "batch size does not match"),
}


@pytest.mark.parametrize("protocol", [grpc, http], ids=["grpc", "http"])
@pytest.mark.parametrize("name", BAD)
def test_a_bad_request_is_refused_and_the_server_goes_on(server, client, asked, name, protocol):
    (user_id,), more, message = BAD[name]
    with pytest.raises(InferenceServerException, match=message) as refused:
        ask(server, user_id, protocol, **more)
    assert refused.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")
    assert client.recommend(**user(asked, 0)).item_ids[0, 0]


@pytest.mark.parametrize("protocol", [grpc, http], ids=["grpc", "http"])
def test_ids_of_another_type_are_refused(server, client, asked, protocol):
    with pytest.raises(InferenceServerException, match="data-type") as refused:
        ask(server, np.array([[7]], dtype=np.int64), protocol, datatype="INT64")
    assert refused.value.status() in ("StatusCode.INVALID_ARGUMENT", "400")
    assert client.recommend(**user(asked, 0)).item_ids[0, 0]


@pytest.mark.parametrize("bad", [[None], [""], [b"\xff"], ["x" * 257], []])
def test_the_client_refuses_bad_ids_itself(client, bad):
    with pytest.raises(RequestError):
        client.recommend(bad)


def test_the_server_is_as_good_as_new_after_bad_requests_among_good_ones(server, client, asked):
    expected = client.recommend(**asked)

    def call(turn):
        if turn % 3:
            return client.recommend(**asked)
        with pytest.raises(InferenceServerException):
            ask(server, texts([b"\xff"]))
        return None

    with ThreadPoolExecutor(6) as pool:
        for reply in pool.map(call, range(30)):
            if reply is not None:
                assert_equal_replies(reply, expected)


def test_a_broken_store_degrades_and_a_repaired_one_serves_again(repository, client, asked):
    store = repository / MODEL_NAME / "1/ensemble/store/online.db"
    before, whole = client.recommend(**asked, with_candidates=True), store.read_bytes()
    try:
        store.write_bytes(b"garbage" * 1_000)
        assert_equal_replies(client.recommend(**asked, with_candidates=True), before)  # they asked a moment ago
        broken = client.recommend(["came later"], k=5, exclude=[before.item_ids[0].tolist()])
        assert set(broken.source) == {"degraded"} and (broken.item_ids != "").all()
        assert set(before.item_ids[0]).isdisjoint(broken.item_ids[0])
    finally:
        store.write_bytes(whole)
    assert_equal_replies(client.recommend(**asked, with_candidates=True), before)
