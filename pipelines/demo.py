"""The demo: a made world through every stage, a few slates from a real Triton, and the quality table."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from ensemble.client import RecommendClient
from ensemble.rollout import prepared_repository
from ensemble.server import TritonServer
from features.artifact import Artifact
from features.peak_memory import peak_bytes
from pipelines.config import CascadeConfig
from pipelines.measure import measure
from pipelines.report import write_run_report
from pipelines.shown_values import memory
from pipelines.slates import print_slates, titles
from pipelines.stages import run_stages


def run_demo(config: CascadeConfig, out: Path) -> None:
    """Leaves the run folder `out`; Triton is stopped at the end."""
    begun = time.monotonic()
    stages = run_stages(config, out)
    users = [*_some_users(out / "etl" / "users.parquet"), "a-stranger"]
    serving = replace(config.serving, http_port=0, grpc_port=0, metrics_port=0)  # for a moment: any free ports
    own = prepared_repository(out, out / "serve" / "measured", serving)
    with TritonServer(own.folder, out / "serve", serving) as server:
        print(f"triton     ready at {server.grpc_url} (gRPC) and {server.http_url} (HTTP)", flush=True)
        with RecommendClient(server.grpc_url, timeout_seconds=60) as client:
            print_slates(users, client.recommend(users, k=5), titles(out / "etl" / "items.parquet"))
            measure(client, config, out)
    print(
        f"demo       done in {time.monotonic() - begun:.0f} s, peak memory of one process {memory(_peak_bytes(stages))}"
    )
    print(f"           run folder: {out}")
    cascade = sys.argv[0] if Path(sys.argv[0]).name == "cascade" else "cascade"  # .venv/bin need not be on the path
    print(f"           next: {cascade} serve   and beside it: {cascade} recommend --users {users[0]}")
    print(f"report     {write_run_report(out)}")
    print(f"explore    {cascade} explore {out} --open")


def _peak_bytes(stages: Mapping[str, Artifact]) -> int:
    """Of this process, whose count begins anew with each stage, and of those that it started."""
    children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return max(peak_bytes(), children, *(one.manifest.get("peak_memory_bytes") or 0 for one in stages.values()))


def _some_users(path: Path) -> list[str]:
    """Two users with a history, the busiest and a typical one, and one without."""
    users = pq.read_table(path, columns=["raw_id", "num_events"])
    order = pc.array_sort_indices(users["num_events"], order="descending").to_numpy()
    busy = order[users["num_events"].to_numpy()[order] > 0]
    return [users["raw_id"][int(row)].as_py() for row in (busy[0], busy[len(busy) // 2], order[-1])]
