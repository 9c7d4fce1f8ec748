"""How long does one user wait, and what do many users in one call save? Real Triton over gRPC on loopback.

Prints one JSON line a question. Needs a finished run: python benchmarks/serving_latency.py [RUN_FOLDER]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ensemble.client import RecommendClient
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.server import ServingConfig, TritonServer

NUM_RUNS = 300
BATCH = 64
BUDGET_MS = 5.0


def main(run: Path) -> None:
    users = pq.read_table(run / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()[:BATCH]
    repository = run / "export" / "repository"
    local = Pipeline.load(repository / "cascade" / "1")
    ports = replace(ServingConfig(), http_port=0, grpc_port=0, metrics_port=0)
    with TritonServer(repository, run / "serve", ports) as server, RecommendClient(server.grpc_url) as client:
        one = medians(
            {
                "triton": lambda number: client.recommend([users[number % len(users)]]),
                "in process": lambda number: local.recommend(Request.of([users[number % len(users)]])),
            },
            NUM_RUNS,
        )
        many = medians(
            {
                "one call": lambda number: client.recommend(users),
                "single calls": lambda number: [client.recommend([user]) for user in users],
            },
            NUM_RUNS // 30,
        )
    size = json.loads((run / "etl" / "manifest.json").read_text())["metrics"]["num_items"]
    told = {"size": size, "cores": os.cpu_count(), "commit": commit()}
    say("p50 of one user over gRPC", one["triton"], BUDGET_MS, "ms (peer: the budget)", 1.0, NUM_RUNS, told)
    say("p50 of one user, Triton against in process", one["triton"], one["in process"], "ms", None, NUM_RUNS, told)
    say(f"{BATCH} users in one call against {BATCH} calls", many["one call"], many["single calls"], "ms", 1.0, 10, told)


def medians(contestants: dict[str, Callable[[int], object]], num_runs: int) -> dict[str, float]:
    """Median milliseconds of each, called in turn."""
    taken: dict[str, list[float]] = {name: [] for name in contestants}
    for number in range(num_runs + 5):
        for name, call in contestants.items():
            begun = time.perf_counter()
            call(number)
            taken[name].append((time.perf_counter() - begun) * 1e3)
    return {name: float(np.median(times[5:])) for name, times in taken.items()}


def say(question: str, ours: float, peer: float, unit: str, goal: float | None, runs: int, told: dict) -> None:
    ratio = ours / peer
    line = {"benchmark": "serving_latency", "question": question, "ours": round(ours, 3), "peer": round(peer, 3)}
    line |= {"unit": unit, "ratio": round(ratio, 3), "goal": goal, "better": "lower"}
    print(json.dumps(line | {"met": None if goal is None else ratio <= goal, "runs": runs} | told))


def commit() -> str:
    return subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path("runs/demo")
    if not (folder / "export" / "manifest.json").is_file():
        sys.exit(f"{folder} is no finished run; `make demo` makes runs/demo")
    main(folder)
