"""`cascade explore` as its user starts it."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

from pipelines.__main__ import main


@pytest.mark.slow
def test_two_runs_are_shown_beside_each_other_until_it_is_interrupted(small_run, tmp_path):
    command = [sys.executable, "-m", "pipelines", "explore", str(small_run), "--against", str(small_run), "--port", "0"]
    with subprocess.Popen(
        [*command, "--serving.ordering.diversity", "0.4"], cwd=tmp_path, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            assert process.stdout is not None
            said = process.stdout.readline()
            address = re.search(r"http://127\.0\.0\.1:\d+/", said)
            assert address, said
            about = json.load(urllib.request.urlopen(f"{address[0]}api/about", timeout=60))
            assert [one["run"] for one in about["runs"]] == [str(small_run)] * 2
            assert about["runs"][0]["diversity"] == 0.4
            question = json.dumps({"user": "customer-000001", "run": 1}).encode()
            asked = urllib.request.Request(f"{address[0]}api/slate", question, {"content-type": "application/json"})
            assert len(json.load(urllib.request.urlopen(asked, timeout=60))["items"]) == 10
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0


def test_what_cannot_be_shown_is_said_before_anything_is_loaded(small_run, tmp_path, monkeypatch, capsys):
    from pipelines.config import load_config, save_config
    from pipelines.stages import CONFIG_FILE

    monkeypatch.chdir(tmp_path)
    save_config(
        load_config(None, ["--data.adapter", "criteo", "--data.criteo.train", "logs"]), Path("clicks") / CONFIG_FILE
    )

    def refused(*words: str) -> str:
        assert main(["explore", *words]) == 1
        return capsys.readouterr().err

    assert "impressions have no users and items to propose" in refused("clicks", "--port", "0")
    assert "nowhere: there is no such run" in refused("nowhere", "--port", "0")
    assert "--images nowhere" in refused(str(small_run), "--port", "0", "--images", "nowhere")
    assert "no run is known here" in refused("--port", "0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "give another --port" in refused(str(small_run), "--port", str(taken.getsockname()[1]))
    with pytest.raises(SystemExit):
        main(["explore", str(small_run), "--port", "http"])
