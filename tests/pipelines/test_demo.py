"""From logs to live recommendations through the command line, as its user does it, on a small world."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest

from pipelines.__main__ import main

pytestmark = pytest.mark.triton
FREE_PORTS = ["--serving.http-port", "0", "--serving.grpc-port", "0", "--serving.metrics-port", "0"]


QUICK = {
    "evaluation__candidate_k": "20",
    "evaluation__ks": "[]",
    "evaluation__num_bootstrap": "20",
    "evaluation__max_tuning_users": "20",
}
"""A small evaluation."""


@dataclass(frozen=True)
class Demo:
    """A finished `cascade demo`."""

    folder: Path
    """The folder the commands are given in."""
    said: str

    @property
    def run(self) -> Path:
        return self.folder / "runs" / "demo"

    @property
    def users(self) -> list[str]:
        """The busiest user, one without history, and one that the log does not have."""
        table = pq.read_table(self.run / "etl" / "users.parquet", columns=["raw_id", "num_events"])
        ids, counts = table["raw_id"].to_pylist(), table["num_events"].to_numpy()
        return [ids[int(counts.argmax())], ids[int(counts.argmin())], "a-stranger"]

    def cascade(self, *arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "pipelines", *arguments],
            cwd=self.folder,
            capture_output=True,
            text=True,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


@pytest.fixture(scope="module")
def demo(small_world, tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "demo", *small_world.words(**QUICK)],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=400,
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "a run that goes well has nothing to complain about"
    return Demo(folder, done.stdout)


@dataclass(frozen=True)
class Server:
    process: subprocess.Popen[str]
    addresses: dict[str, str]


@pytest.fixture(scope="module")
def server(demo: Demo) -> Iterator[Server]:
    """`cascade serve` of the last run, until the module's tests are done."""
    process = subprocess.Popen(
        [sys.executable, "-m", "pipelines", "serve", *FREE_PORTS],
        cwd=demo.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    try:
        file, deadline = demo.run / "serve" / "addresses.json", time.monotonic() + 120
        while not file.exists():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
            time.sleep(0.1)
        while not (text := file.read_text()).endswith("\n"):
            time.sleep(0.01)
        yield Server(process, json.loads(text))
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def slates(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_the_demo_shows_every_stage_slates_from_triton_and_the_quality_beside_baselines(demo):
    for words in ("etl ", "retrieval ", "index ", "ranking ", "export ", "triton     ready at 127.0.0.1:"):
        assert words in demo.said
    for words in ("(personal)", "(cold)", "(fallback)", "Cascade slate", "popularity", "ials", "ease"):
        assert words in demo.said
    assert "cascade serve" in demo.said and "recommend --users" in demo.said
    report, explore = demo.said.splitlines()[-2:]
    assert report == "report     runs/demo/report.html" and explore.endswith(" explore runs/demo --open")
    assert "Quality on the test users" in (demo.run / "report.html").read_text()
    assert (demo.folder / "runs" / "latest").read_text() == "runs/demo\n"
    assert not (demo.run / "serve" / "addresses.json").exists()


def test_grpc_http_and_in_process_give_the_same_slates(demo, server):
    items = pq.read_table(demo.run / "etl" / "items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    question = ["recommend", "--users", ",".join(demo.users), "--k", "7", "--exclude", ",".join(items[:3]), "--json"]
    over_grpc = slates(demo.cascade(*question))
    assert [row["user_id"] for row in over_grpc] == demo.users
    assert [row["source"] for row in over_grpc] == ["personal", "cold", "fallback"]
    for row in over_grpc:
        ids, scores = ([item[name] for item in row["items"]] for name in ("item_id", "score"))
        assert len(set(ids)) == 7 and set(ids) <= set(items[3:]) and scores == sorted(scores, reverse=True)
    assert slates(demo.cascade(*question, "--protocol", "http")) == over_grpc
    assert slates(demo.cascade(*question, "--local")) == over_grpc
    assert slates(demo.cascade(*question, "--url", server.addresses["grpc"])) == over_grpc


def test_slates_on_the_screen_have_titles(demo, server):
    shown = demo.cascade("recommend", "--users", demo.users[0], "--k", "3", "--out", "runs/demo")
    title = pq.read_table(demo.run / "etl" / "items.parquet", columns=["title"])["title"][0].as_py()
    assert "rank" in shown and "title" in shown and title and f"user {demo.users[0]}" in shown


def test_evaluate_measures_the_server_that_runs_and_gives_what_the_demo_gave(demo, server):
    before = json.loads((demo.run / "evaluation.json").read_text())
    shown = demo.cascade("evaluate")
    assert "Cascade slate" in shown
    assert json.loads((demo.run / "evaluation.json").read_text()) == before
    assert before["served"]["short_slates"] == 0 and before["served"]["seen_items_in_slates"] == 0


def test_evaluate_refuses_a_run_whose_features_saw_the_test_period(demo, tmp_path):
    run = tmp_path / "run"
    command = [sys.executable, "-m", "pipelines"]
    size = ["--data.synthetic.num-users", "50", "--data.synthetic.num-items", "60"]
    size += ["--data.synthetic.num-interactions", "500", "--etl.serve-state", "latest"]
    subprocess.run([*command, "etl", "--out", str(run), *size], check=True, capture_output=True, timeout=120)
    evaluate = [*command, "evaluate", "--out", str(run)]
    done = subprocess.run(evaluate, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert done.returncode == 1 and "have seen the test period" in done.stderr and "Traceback" not in done.stderr


@pytest.mark.parametrize("command", ["evaluate", "serve"])
def test_a_small_run_is_taken_as_it_is(command, demo, monkeypatch, capsys):
    monkeypatch.chdir(demo.folder)
    assert main([command, "--etl.drop-seen", "false", "--export.max-batch-size", "8", *FREE_PORTS]) == 1
    assert "runs/demo was made with another value of etl and export than the" in capsys.readouterr().err


def test_serving_a_run_twice_is_refused_and_leaves_the_first_server_alone(demo, server):
    again = [sys.executable, "-m", "pipelines", "serve", *FREE_PORTS]
    done = subprocess.run(again, cwd=demo.folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 1 and "is served already" in done.stderr and "Traceback" not in done.stderr
    assert slates(demo.cascade("recommend", "--users", demo.users[0], "--json"))


def test_sigterm_ends_the_server_and_leaves_no_process(demo, server):
    """The last test of the module: it stops the server that the others share."""
    children = psutil.Process(server.process.pid).children(recursive=True)
    assert any("tritonserver" in child.name() for child in children)
    os.kill(server.process.pid, signal.SIGTERM)
    said, _ = server.process.communicate(timeout=60)
    assert server.process.returncode == 0 and said.rstrip().endswith("stopped"), said
    assert not [child for child in children if child.is_running() and child.status() != psutil.STATUS_ZOMBIE]
    assert not (demo.run / "serve" / "addresses.json").exists()
    done = subprocess.run(
        [sys.executable, "-m", "pipelines", "recommend", "--users", "a"],
        cwd=demo.folder,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 1 and "start the server with `cascade serve`" in done.stderr
