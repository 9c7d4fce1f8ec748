"""The client speaks both protocols alike, turns every failure into a typed error, and callers never mix."""

import socket
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import numpy as np
import pytest

from ensemble.client import RecommendClient, ServerFailure, ServerUnavailable
from ensemble.request import RequestError
from ensemble.server import ServingConfig, TritonServer
from ensemble.triton_config import MODEL_NAME

pytestmark = pytest.mark.triton

FIELDS = ("item_ids", "scores", "propensities", "source", "candidate_ids", "ranked_ids")


@pytest.fixture(scope="module")
def server(stand_in_repository, tmp_path_factory):
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(stand_in_repository(), tmp_path_factory.mktemp("serve"), config) as server:
        yield server


@pytest.fixture(params=["grpc", "http"])
def client(server, request):
    with RecommendClient(getattr(server, f"{request.param}_url"), request.param) as client:
        yield client


def test_grpc_and_http_answer_alike(server):
    arguments = {"k": [3, 20], "exclude": [["a-0", "a-2"], []], "timestamp": [5, -1], "with_candidates": True}
    with RecommendClient(server.grpc_url) as grpc, RecommendClient(server.http_url, "http") as http:
        one, other = grpc.recommend(["a", "é\n"], **arguments), http.recommend(["a", "é\n"], **arguments)
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
        assert getattr(one, name).dtype == getattr(other, name).dtype
    assert one.item_ids.shape == one.scores.shape == one.propensities.shape == (2, 20)
    assert one.item_ids[0].tolist() == ["a-1", "a-3", "a-4", *[""] * 17]
    assert one.scores[0, :4].tolist() == [5, 5, 5, -np.inf] and one.propensities[0, :4].tolist() == [1, 1, 1, 0]
    assert one.item_ids[1, :12].tolist() == [f"é\n-{number}" for number in range(12)]
    assert one.source.tolist() == ["personal", "personal"]
    assert one.candidate_ids.shape == one.ranked_ids.shape == (2, 12)


def test_optional_inputs_can_be_left_out(client):
    reply = client.recommend(["u"])
    assert reply.item_ids.tolist() == [[f"u-{number}" for number in range(10)]]
    assert reply.scores.tolist() == [[-1.0] * 10]
    assert reply.candidate_ids.shape == reply.ranked_ids.shape == (1, 0)


def test_the_callers_mistakes_are_request_errors(client):
    with pytest.raises(RequestError, match="user_id row 0"):
        client.recommend([""])
    with pytest.raises(RequestError, match=f"{client.url} refused .*<= 64.*recommend_all splits longer lists"):
        client.recommend(["u"] * 65)
    with pytest.raises(RequestError, match="unwelcome"):
        client.recommend(["unwelcome"])
    assert len(client.recommend(["u"])) == 1


def test_a_failing_pipeline_is_a_server_failure(client):
    with pytest.raises(ServerFailure, match=f"{client.url} could not answer: .*the store is on fire"):
        client.recommend(["boom"])
    assert len(client.recommend(["u"])) == 1


def test_any_number_of_users_is_split_into_batches(client):
    users = [f"u{number}" for number in range(150)]
    ks = [1 + number % 3 for number in range(150)]
    replies = list(client.recommend_all(users, batch_size=64, k=ks, exclude=[[f"{user}-0"] for user in users]))
    assert [len(reply) for reply in replies] == [64, 64, 22]
    assert [row[0] for reply in replies for row in reply.item_ids] == [f"{user}-1" for user in users]
    assert [int((row != "").sum()) for reply in replies for row in reply.item_ids] == ks
    with pytest.raises(RequestError, match="k must have one entry for each of 150 users, got 2"):
        list(client.recommend_all(users, k=[1, 2]))
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        list(client.recommend_all(users, batch_size=0))


def test_callers_at_once_share_runs_and_each_gets_its_own_answer(server):
    """A bad caller among them fails alone; k, exclude lists and left-out arguments differ."""
    import tritonclient.grpc as triton

    def num_runs():
        with triton.InferenceServerClient(server.grpc_url) as client:
            return client.get_inference_statistics(MODEL_NAME).model_stats[0].execution_count

    num_callers, num_calls = 12, 4
    barrier = threading.Barrier(num_callers)

    def call(caller):
        users = [f"slow{caller}.{row}" for row in range(1 + caller % 3)]
        exclude = [[f"{user}-{item}" for item in range(caller % 4)] for user in users] if caller % 2 else None
        with RecommendClient(server.grpc_url) as client:
            barrier.wait()
            for _ in range(num_calls):
                if caller == 5:
                    with pytest.raises(ServerFailure, match="on fire"):
                        client.recommend(["boom"])
                    continue
                reply = client.recommend(users, k=1 + caller % 5, exclude=exclude, timestamp=caller or None)
                first = caller % 4 if caller % 2 else 0
                wanted = [[f"{user}-{first + item}" for item in range(1 + caller % 5)] for user in users]
                assert reply.item_ids.tolist() == wanted
                assert (reply.scores == (caller or -1)).all()

    before = num_runs()
    with ThreadPoolExecutor(num_callers) as pool:
        list(pool.map(call, range(num_callers)))
    assert num_runs() - before < num_callers * num_calls / 2


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_nobody_there_is_server_unavailable_with_the_address(protocol):
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"127.0.0.1:{closed.getsockname()[1]}"
        with (
            RecommendClient(url, protocol, timeout_seconds=1) as client,
            pytest.raises(ServerUnavailable, match=f"{protocol} {url} .*start the server"),
        ):
            client.recommend(["u"])


@pytest.mark.parametrize("protocol", ["grpc", "http"])
def test_no_answer_in_time_is_server_unavailable(protocol):
    with ExitStack() as stack:
        silent = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        url = f"127.0.0.1:{silent.getsockname()[1]}"
        client = stack.enter_context(RecommendClient(url, protocol, timeout_seconds=0.3))
        with pytest.raises(ServerUnavailable, match=f"{url} gave no answer within 0.3 s"):
            client.recommend(["u"])


def test_a_scheme_or_an_unknown_protocol_is_refused_at_once():
    with pytest.raises(ValueError, match="without a scheme, got 'http://a:1'; drop http://"):
        RecommendClient("http://a:1")
    with pytest.raises(ValueError, match="protocol must be grpc or http, got 'rest'"):
        RecommendClient("a:1", "rest")  # pyright: ignore[reportArgumentType]
