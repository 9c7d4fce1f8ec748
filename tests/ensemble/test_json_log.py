"""The log of the serving processes: whole lines, request ids, rotation by several processes, a full disk."""

import json
import logging
import subprocess
import sys

import pytest

from ensemble.json_log import JsonLog, JsonLogConfig, log_lines_of
from ensemble.serving_metrics import Metrics

log = logging.getLogger("ensemble.test")


@pytest.fixture
def counted(monkeypatch):
    ours = Metrics()
    monkeypatch.setattr("ensemble.json_log.metrics", ours)
    return lambda: sum(ours.totals().values())


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_line_has_time_level_logger_version_request_and_traceback(tmp_path, counted):
    with JsonLog(JsonLogConfig(), tmp_path, model="cascade", version="3"):
        log.info("loaded %d\nitems", 7)
        with log_lines_of(["a", "\u2028é\n"]):
            try:
                raise KeyError("x")
            except KeyError:
                log.exception("it failed")
        logging.getLogger("somebody.else").info("chatter")
        logging.getLogger("somebody.else").warning("trouble")
    log.warning("after the end")
    first, second, third = lines(tmp_path / "cascade.jsonl")
    assert first["time"].endswith("+00:00") and first["level"] == "INFO" and first["logger"] == "ensemble.test"
    assert first["message"] == "loaded 7\nitems" and first["version"] == "3" and "request_ids" not in first
    assert second["request_ids"] == ["a", "\u2028é\n"] and "KeyError: 'x'" in second["exception"]
    assert third["message"] == "trouble" and counted() == 0


def test_warnings_still_reach_stderr_as_text(tmp_path, capsys):
    with JsonLog(JsonLogConfig(), tmp_path):
        log.info("not this")
        log.error("but this")
    assert "ERROR ensemble.test: but this" in (text := capsys.readouterr().err) and "not this" not in text


def test_values_are_written_as_they_were_when_logged(tmp_path):
    users = ["a"]
    with JsonLog(JsonLogConfig(), tmp_path):
        for _ in range(100):
            log.info("%s", users)
        users.clear()
    assert {line["message"] for line in lines(tmp_path / "cascade.jsonl")} == {"['a']"}


WRITER = """
import logging, sys
from pathlib import Path
from ensemble.json_log import JsonLog, JsonLogConfig
with JsonLog(JsonLogConfig(max_bytes=20_000, num_files=50), Path(sys.argv[1]), version=sys.argv[2]):
    for number in range(500):
        logging.getLogger("ensemble.test").info("%d %s", number, "x" * (number % 90))
"""


def test_processes_that_share_a_file_lose_and_tear_no_line(tmp_path):
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, tmp_path, str(number)]) for number in range(3)]
    assert [writer.wait() for writer in writers] == [0, 0, 0]
    files = sorted(tmp_path.glob("cascade.jsonl*"))
    most = 20_000 + 3 * 400  # each may have seen room for one more line
    assert all(path.stat().st_size <= most for path in files) and len(files) > 5
    read = [line for path in files if path.suffix != ".lock" for line in lines(path)]
    assert len(read) == 1_500 == len({(line["version"], line["message"]) for line in read})


def test_only_so_many_files_are_kept(tmp_path):
    with JsonLog(JsonLogConfig(max_bytes=10_000, num_files=3), tmp_path):
        for number in range(1_000):
            log.info("line %d", number)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["cascade.jsonl", "cascade.jsonl.1", "cascade.jsonl.2", "cascade.jsonl.lock"]
    assert lines(tmp_path / "cascade.jsonl")[-1]["message"] == "line 999"


def test_a_full_disk_drops_lines_and_counts_them(counted, tmp_path):
    with JsonLog(JsonLogConfig(file="/dev/full"), tmp_path):
        for _ in range(5):
            log.warning("nobody reads this")
    assert counted() == 5


def test_a_disk_that_hangs_never_makes_a_caller_wait(tmp_path, monkeypatch, counted):
    monkeypatch.setattr("ensemble.json_log._QUEUED_LINES", 10)
    with JsonLog(JsonLogConfig(), tmp_path) as ours:
        with ours._file.lock:  # the writing thread waits for it, as it would for a disk
            for number in range(50):
                log.info("%d", number)
        assert counted() >= 39
    assert len(lines(tmp_path / "cascade.jsonl")) + counted() == 50
