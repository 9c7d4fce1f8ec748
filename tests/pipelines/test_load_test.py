"""What a load test reports is what callers feel: waiting counts, wrong replies count, a slow generator shows."""

import asyncio
import json
import time

import numpy as np
import pytest
from tritonclient.grpc import service_pb2

from pipelines.__main__ import main
from pipelines.load_report import document, quantiles_ms, table
from pipelines.load_requests import WrongReplyError, packed, request_of, sources_of, unpacked
from pipelines.load_test import Generator
from pipelines.server_memory import ServerMemory, resident_bytes

REQUEST = request_of(["ann"], 3, [["x"]])


def reply_of(items, num_users=1, source="personal"):
    message = service_pb2.ModelInferResponse()
    message.outputs.add(name="item_ids", datatype="BYTES", shape=[num_users, len(items) // num_users])
    message.raw_output_contents.append(packed(items))
    message.outputs.add(name="source", datatype="BYTES", shape=[num_users, 1])
    message.raw_output_contents.append(packed([source] * num_users))
    return message.SerializeToString()


GOOD = reply_of(["a", "b", "c"])


class FakeServer:
    """Answers one call at a time, after a fixed service time; stands still once, from the n-th call on."""

    def __init__(self, service_seconds=0.0005, stall_at=-1, stall_seconds=0.0):
        self.lock = asyncio.Lock()
        self.service_seconds, self.stall_at, self.stall_seconds = service_seconds, stall_at, stall_seconds
        self.num_calls = 0

    async def __call__(self, payload):
        async with self.lock:
            self.num_calls += 1
            await asyncio.sleep(self.stall_seconds if self.num_calls == self.stall_at else self.service_seconds)
        return GOOD


def open_loop(server, times):
    return asyncio.run(Generator(server, [REQUEST]).open_loop(times))


def test_a_stall_is_charged_for_everybody_who_came_meanwhile():
    """200 calls in a second, and half a second without an answer: half of the calls waited, many for over 0.2 s."""
    times = np.arange(200) / 200
    outcome = open_loop(FakeServer(stall_at=50, stall_seconds=0.5), times)
    latency = np.array(outcome.latency_seconds)
    assert len(latency) == 200 and not outcome.errors
    assert np.quantile(latency, 0.99) > 0.4
    assert np.mean(latency > 0.2) > 0.2
    # To a caller that waits for its turn the same stall is one slow call in hundreds: the mistake to be avoided.
    closed = asyncio.run(Generator(FakeServer(stall_at=50, stall_seconds=0.5), [REQUEST]).closed_loop(1, 1.0))
    assert np.mean(np.array(closed.latency_seconds) > 0.2) < 0.02


def test_a_generator_that_is_late_shows_in_lag_and_in_latency_but_not_in_service():
    async def blocking(payload):
        time.sleep(0.02)  # holds the event loop, as a saturated generator would
        return GOOD

    outcome = open_loop(blocking, np.zeros(20))
    assert max(outcome.lag_seconds) > 0.2
    assert max(outcome.latency_seconds) > 0.3
    assert np.median(outcome.service_seconds) < 0.15


def test_calls_are_sent_at_their_times_whether_or_not_others_were_answered():
    server = FakeServer(service_seconds=10)

    async def sent_after():
        generator = Generator(server, [REQUEST])
        task = asyncio.create_task(generator.open_loop(np.arange(20) / 100))
        await asyncio.sleep(0.4)
        task.cancel()
        return generator.outcome.num_sent

    assert asyncio.run(sent_after()) == 20


def test_failures_are_counted_by_kind_and_do_not_end_the_test():
    answers = iter([GOOD, RuntimeError("no"), reply_of(["a", "b"]), GOOD] * 5)

    async def flaky(payload):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    outcome = open_loop(flaky, np.zeros(20))
    assert outcome.num_sent == 20 and len(outcome.latency_seconds) == 10
    assert outcome.errors == {
        "RuntimeError: no": 5,
        "wrong reply: item_ids must have shape [1, 3], got [1, 2]": 5,
    }
    assert outcome.sources == {"personal": 10}


@pytest.mark.parametrize(
    ("items", "message"),
    [
        (["a", "b", ""], "must get 3 items, got 2"),
        (["a", "b", "a"], "an item twice"),
        (["a", "x", "b"], "an item that the request excludes"),
    ],
)
def test_a_wrong_slate_is_found_by_the_full_check(items, message):
    with pytest.raises(WrongReplyError, match=message):
        sources_of(reply_of(items), REQUEST, fully=True)
    assert sources_of(reply_of(items), REQUEST, fully=False) == [b"personal"]
    assert sources_of(GOOD, REQUEST, fully=True) == [b"personal"]


def test_texts_survive_the_wire_form():
    texts = ["", "a", "\0", "é" * 100, "\U0001f600"]
    assert [raw.decode() for raw in unpacked(packed(texts))] == texts


def test_quantiles_are_times_that_some_call_took():
    assert quantiles_ms([0.001, 0.002, 0.004]) == {"p50": 2.0, "p90": 4.0, "p99": 4.0, "p99.9": 4.0, "max": 4.0}
    assert quantiles_ms([]) == {}


def test_the_table_tells_what_the_document_does():
    outcome = open_loop(FakeServer(), np.arange(50) / 500)
    told = document(outcome, {"rate": 500}, {"first_mib": 1.0, "last_mib": 2.0, "slope_mib_per_minute": 3, "spread": 1})
    assert told["sent"] == told["answered"] == 50 and told["checked_fully"] == 4
    text = table(told)
    assert "50 calls, 50 answered, 0 failed" in text
    assert "personal 50" in text and "+3.00 MiB/minute" in text
    assert f"{told['latency_ms']['p99']:.2f}" in text


def test_memory_of_a_server_that_is_not_here_is_unknown(tmp_path):
    assert resident_bytes(tmp_path) == 0
    (tmp_path / "lock").write_text("started by pid 999999999, shared memory cascade_x\n")
    assert resident_bytes(tmp_path) == 0
    with ServerMemory(tmp_path) as memory:
        pass
    assert memory.summary() is None


def test_slope_and_spread_of_memory():
    memory = ServerMemory(None, seconds=[0.0, 60.0, 120.0], mib=[100.0, 102.0, 104.0])
    assert memory.summary(skipped_share=0) == {
        "first_mib": 100.0,
        "last_mib": 104.0,
        "max_mib": 104.0,
        "slope_mib_per_minute": 2.0,
        "spread": 0.04,
    }


@pytest.mark.slow
@pytest.mark.triton
def test_the_command_loads_a_server_of_the_run(small_run, tmp_path, capfd):
    """A server for this test alone: both loops against a real Triton, and figures that fit each other."""
    import shutil

    run = shutil.copytree(small_run, tmp_path / "run")
    command = ["loadtest", "--run", str(run), "--json", "--users-per-call", "zipf", "--k", "5", "--exclude", "3"]
    assert main([*command, "--duration", "4", "--rate", "20"]) == 0
    told = json.loads(capfd.readouterr().out.strip().splitlines()[-1])
    assert told["loop"] == "open" and told["errors"] == {} and told["sent"] == told["answered"] > 30
    assert told["checked_fully"] >= 2
    assert set(told["sources"]) <= {"personal", "cold", "fallback", "cached"}
    assert told["latency_ms"]["p50"] >= told["service_ms"]["p50"] > 0
    assert told["server_memory"]["first_mib"] > 50


def test_a_server_that_is_not_there_is_no_measurement(small_run, capsys):
    assert main(["loadtest", "--run", str(small_run), "--url", "127.0.0.1:1", "--duration", "1"]) == 1
    assert "does not answer" in capsys.readouterr().err
