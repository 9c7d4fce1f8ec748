"""What the serving benchmarks share: the run they serve, a fresh server, and the form of a line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from ensemble.rollout import prepared_repository
from ensemble.server import ServingConfig, TritonServer

K = 20
NUM_CANDIDATES = 200
"""Candidates that the run's ranker scores for each user: `export.num_candidates`."""
DEFAULT_RUN = Path("runs/serving")
CONFIG = Path("pipelines/configs/serving.toml")


def serving_run(arguments: list[str]) -> Path:
    """The run folder that the command line names, or runs/serving, which is made if it is missing."""
    folder = Path(arguments[1]) if len(arguments) > 1 else DEFAULT_RUN
    if not (folder / "export" / "manifest.json").is_file():
        if len(arguments) > 1:
            sys.exit(f"{folder} is no finished run; without an argument {DEFAULT_RUN} is made")
        command = [sys.executable, "-m", "pipelines", "run", "--config", str(CONFIG), "--out", str(folder)]
        subprocess.run(command, check=True, stdout=sys.stderr)
    return folder


@contextmanager
def fresh_server(run: Path, repository: Path | None = None) -> Iterator[TritonServer]:
    """A server on free ports, with its logs in a folder that goes away.

    Args:
        repository: what it serves; None for the run's export.
    """
    ports = replace(ServingConfig(), http_port=0, grpc_port=0, metrics_port=0, ready_timeout_seconds=600)
    with tempfile.TemporaryDirectory(prefix="cascade-serve-") as folder:
        own = repository or prepared_repository(run, Path(folder), ports).folder
        with TritonServer(own, Path(folder), ports) as server:
            yield server


def say(
    benchmark: str,
    question: str,
    ours: float,
    peer: float,
    unit: str,
    goal: float | None,
    better: str = "lower",
    **told,
) -> None:
    """Print one measurement as a JSON line; `ratio` is ours to the peer's, and `goal` is what it may be."""
    ratio = ours / peer
    met = None if goal is None else ratio <= goal if better == "lower" else ratio >= goal
    line = {"benchmark": benchmark, "question": question, "ours": round(ours, 3), "peer": round(peer, 3), "unit": unit}
    line |= {"ratio": round(ratio, 3), "goal": goal, "better": better, "met": met}
    print(json.dumps(line | told | {"cores": os.cpu_count(), "commit": _commit()}), flush=True)


def _commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
