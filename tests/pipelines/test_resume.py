"""A run killed at any stage goes on when the same command is given again, and ends with the same artifacts."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from features.artifact import open_artifact
from pipelines.stages import STAGE_NAMES


def started(out: Path, words: list[str]) -> subprocess.Popen[str]:
    """`cascade run` in a process group of its own, behind this process in line for the processor."""
    return subprocess.Popen(
        ["nice", "-n", "19", sys.executable, "-m", "pipelines", "run", "--out", str(out), *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def killed_in(stage: str, out: Path, words: list[str]) -> bool:
    """Give the command and kill it with all its processes as soon as the stage is at work; False if it was too fast."""
    building = out / f".{stage}.building"
    shutil.rmtree(building, ignore_errors=True)  # what an earlier kill left there
    process = started(out, words)
    deadline = time.monotonic() + 200
    while not building.exists():  # without sleep: a stage may take milliseconds
        assert process.poll() is None or process.returncode == 0, process.communicate()[0]
        if process.returncode == 0:
            break
        assert time.monotonic() < deadline, f"{stage} never began"
    if process.returncode is None:
        os.killpg(process.pid, signal.SIGKILL)
    said, _ = process.communicate()
    before = STAGE_NAMES[: STAGE_NAMES.index(stage)]
    skipped = [line.split()[0] for line in said.splitlines() if "unchanged" in line]
    assert skipped == [*before[:-1]], "finished stages are not made again"
    return not (out / stage / "manifest.json").exists()


def content_hashes(out: Path) -> dict[str, str]:
    """Of every stage's artifact, whose bytes are checked against the manifest."""
    return {stage: open_artifact(out / stage, stage).content_hash for stage in STAGE_NAMES}


@pytest.mark.slow
def test_a_run_killed_in_every_stage_one_after_the_other_ends_as_an_undisturbed_one(small_run, small_world, tmp_path):
    out, words = tmp_path / "run", small_world.words()
    for stage in STAGE_NAMES:
        for _ in range(3):
            if killed_in(stage, out, words):
                break
            for later in STAGE_NAMES[
                max(0, STAGE_NAMES.index(stage) - 1) :
            ]:  # with the one before, as if it had been killed
                shutil.rmtree(out / later, ignore_errors=True)
        finished = [name for name in STAGE_NAMES if (out / name / "manifest.json").exists()]
        assert finished == [*STAGE_NAMES[: STAGE_NAMES.index(stage)]], f"killed in {stage}"
    last = started(out, words)
    said, _ = last.communicate(timeout=200)
    assert last.returncode == 0, said
    assert content_hashes(out) == content_hashes(small_run)
    assert not list(out.glob(".*")), "nothing half-built is left"
