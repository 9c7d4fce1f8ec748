"""A server that runs answers from the refreshed run once it went live, without a failed request."""

from __future__ import annotations

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from ensemble.client import RecommendClient
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.rollout import prepared_repository
from ensemble.server import TritonServer
from pipelines.__main__ import main
from pipelines.commands import ADDRESSES
from pipelines.config import load_saved_config
from pipelines.refresh.record import FILE
from pipelines.rollout_commands import known_users
from pipelines.stages import CONFIG_FILE

pytestmark = [pytest.mark.slow, pytest.mark.triton]


def test_a_running_server_picks_up_the_refreshed_run(made, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run, new = Path(shutil.copytree(made.run, tmp_path / "run")), tmp_path / "new"
    config = replace(load_saved_config(run / CONFIG_FILE).serving, ready_timeout_seconds=180)
    repository = prepared_repository(run, run / "serve", config).folder
    users = known_users(run)
    with (
        TritonServer(repository, run / "serve", config) as server,
        RecommendClient(server.grpc_url, timeout_seconds=60) as client,
    ):
        (run / "serve" / ADDRESSES).write_text(json.dumps({"grpc": server.grpc_url, "http": server.http_url}))
        done, failed, num_answered = threading.Event(), [], 0

        def ask() -> None:
            nonlocal num_answered
            while not done.is_set():
                try:
                    client.recommend(users, k=10)
                    num_answered += 1
                except Exception as error:
                    failed.append(error)
                done.wait(0.05)

        caller = threading.Thread(target=ask)
        caller.start()
        try:
            words = ["refresh", str(run), "--append", str(made.later), "--out", str(new), "--to", str(run)]
            assert main(words) == 0
        finally:
            done.set()
            caller.join()
        assert not failed and num_answered > 10
        pipeline = Pipeline.load(new / "export" / "repository" / "cascade" / "1", config)
        expected = pipeline.recommend(Request.of(users, k=10)).item_ids.tolist()
        assert client.recommend(users, k=10).item_ids.tolist() == expected
    assert json.loads((new / FILE).read_text())["deployed"]["release"] == 2
