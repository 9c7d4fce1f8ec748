"""How long does one user wait, what do many users in one call save, and what do callers at once get through?

A real Triton over gRPC on loopback, closed loops of the load test's raw calls (pipelines/load_test.py), which share the
processor with it. The contestants run in turn, several rounds each, and medians of rounds are compared.

Prints one JSON line a question: python benchmarks/serving_latency.py [RUN_FOLDER]
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import grpc
import numpy as np
import pyarrow.parquet as pq
from serving_measure import K, fresh_server, say, serving_run

from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.trace import Trace
from pipelines.load_requests import LoadRequest, prepare
from pipelines.load_test import Generator, Outcome, grpc_call

BATCH = 64
CALLERS = 32
ROUNDS = 5
SECONDS = 4.0
"""Of a round; the first of each contestant warms up."""
P50_MS, P99_MS = 5.0, 15.0
BATCH_GAIN, CALLERS_GAIN, TAIL = 8.0, 3.0, 10.0
"""Goals: users a second in calls of 64 to single ones, calls of 32 callers to one's, and their p99 to p50."""
NUM_TRACED = 400


@dataclass
class Contestant:
    """Callers in a closed loop, and what came of each round."""

    requests: list[LoadRequest]
    num_callers: int
    rounds: list[Outcome]

    @property
    def users_per_second(self) -> float:
        return float(np.median([one.sources.total() / one.elapsed_seconds for one in self.rounds]))

    def quantile_ms(self, quantile: float) -> float:
        """Median of the rounds' quantiles."""
        return float(np.median([np.quantile(one.service_seconds, quantile) for one in self.rounds])) * 1e3


def main(run: Path) -> None:
    single, batch = (prepare(run, str(size), K, 0, BATCH, seed=1) for size in (1, BATCH))
    one, many, together = Contestant(single, 1, []), Contestant(batch, 1, []), Contestant(single, CALLERS, [])
    with fresh_server(run) as server:
        asyncio.run(measure(server.grpc_url, [one, many, together]))
    told = {"size": json.loads((run / "etl" / "manifest.json").read_text())["metrics"]["num_items"], "runs": ROUNDS}
    name = "serving_latency"
    p50 = one.quantile_ms(0.5)
    say(name, "p50 of one user a call (peer: the goal)", p50, P50_MS, "ms", 1.0, **told)
    say(name, "p99 of one user a call (peer: the goal)", one.quantile_ms(0.99), P99_MS, "ms", 1.0, **told)
    ours, peer = many.users_per_second, one.users_per_second
    say(name, f"{BATCH} users a call against single calls", ours, peer, "users/s", BATCH_GAIN, "higher", **told)
    ours = together.users_per_second
    say(name, f"{CALLERS} callers against one", ours, peer, "users/s", CALLERS_GAIN, "higher", **told)
    p99, p50_together = together.quantile_ms(0.99), together.quantile_ms(0.5)
    say(name, f"p99 of {CALLERS} callers against their p50", p99, p50_together, "ms", TAIL, **told)
    stages, whole = stage_ms(run)
    say(name, "p50 of one user a call, Triton against in process", p50, float(np.median(whole)), "ms", None, **told)
    for stage, taken in stages.items():
        # Means, unlike medians, add up: the ratios are the stages' shares.
        say(name, f"mean of {stage}, against the whole in process", taken, float(np.mean(whole)), "ms", None, **told)


async def measure(url: str, contestants: list[Contestant]) -> None:
    """Let them run in turn and fill in their rounds.

    Raises: RuntimeError if a call fails: a figure with errors is none.
    """
    async with grpc.aio.insecure_channel(url) as channel:
        call = grpc_call(channel, timeout_seconds=60)
        for number in range(ROUNDS + 1):
            for one in contestants:
                outcome = await Generator(call, one.requests).closed_loop(one.num_callers, SECONDS)
                if outcome.errors:
                    raise RuntimeError(f"every call must be answered, got {dict(outcome.errors)}")
                if number:
                    one.rounds.append(outcome)


def stage_ms(run: Path) -> tuple[dict[str, float], list[float]]:
    """One user a request in process: mean milliseconds of each operator, and those of each whole run."""
    users = pq.read_table(run / "etl" / "users.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    asked = np.random.default_rng(1).choice(users, NUM_TRACED).tolist()
    pipeline = Pipeline.load(run / "export" / "repository" / "cascade" / "1")
    total: Counter[str] = Counter()
    whole: list[float] = []
    for user in asked:
        trace = Trace()
        begun = time.perf_counter()
        pipeline.recommend(Request.of([user], K), trace)
        whole.append((time.perf_counter() - begun) * 1e3)
        total.update({stage: seconds * 1e3 / NUM_TRACED for stage, seconds in trace.stage_seconds.items()})
    return dict(total), whole


if __name__ == "__main__":
    main(serving_run(sys.argv))
