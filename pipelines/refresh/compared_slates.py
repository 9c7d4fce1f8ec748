"""The new run and the live one, asked for the same users at the same moment and held to the same truth."""

# B test users  K ranked slots

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from ensemble.filter_config import StockConfig
from ensemble.pipeline import Pipeline
from ensemble.request import Reply, Request
from features.artifact import Artifact, open_artifact
from pipelines.baselines import HeldOut
from pipelines.config import CascadeConfig
from pipelines.evaluate import ask, user_values
from pipelines.evaluation_config import EvaluationConfig
from pipelines.evaluation_world import World
from pipelines.refresh.live_pipeline import forget, live_version
from retrieval.metrics import bootstrap_difference

NEW, LIVE = "new", "live"
_NUM_WARM_UP = 10


def compared_slates(run: Path, out: Path, config: CascadeConfig) -> dict[str, Any]:
    """Measure both on the new run's test period.

    Args:
        run: the live run.
        out: the new run, all of whose stages are finished, with `before_test`.
        config: the new run's. Its cut-offs, its rules over items and its order of slates hold for both; the stock does
            not, for what can be had today says nothing of the test period.
    Returns: `quality`: metric -> the means of both, and the paired difference new - live with its interval; `latency`:
        medians in milliseconds; `coverage`: numbers of different items in all slates; `num_users`.
    Raises: EvaluationError if no test user has a relevant item.
    """
    etl, live_etl = (open_artifact(one / "etl", "etl") for one in (out, run))
    if reason := _seen_by_live(live_etl, etl):
        return {"not_measured": reason}
    world = World.read(out / "etl")
    users = world.test_users(config.evaluation, config.etl.drop_seen, config.seed)
    new_version = out / "export" / "repository" / "cascade" / "1"
    serving = replace(config.serving, filters=replace(config.serving.filters, stock=StockConfig()))
    try:
        live_folder = live_version(run, etl, users.user_rows, out)
        pipelines = {name: Pipeline.load(folder, serving) for name, folder in ((NEW, new_version), (LIVE, live_folder))}
        moment = int(etl.metrics["test_from"])
        evaluation = replace(
            config.evaluation, batch_users=min(config.evaluation.batch_users, config.export.max_batch_size)
        )
        rankings = {
            name: ask(_asking(pipeline, evaluation, moment, config.seed), world, users, evaluation)[0]
            for name, pipeline in pipelines.items()
        }
        raw_ids = world.raw_ids(users)
        latency = median_milliseconds(
            pipelines, raw_ids, evaluation.slate_k, moment, config.refresh.num_latency_requests
        )
    finally:
        forget(out)
    return {
        "quality": _quality(rankings, users, evaluation, config.seed),
        "latency": latency,
        "coverage": {name: len(_shown(one["slate"])) for name, one in rankings.items()},
        "num_users": len(users.user_rows),
        "moment": moment,
    }


def median_milliseconds(
    pipelines: dict[str, Pipeline], raw_ids: list[str], k: int, moment: int, num_requests: int
) -> dict[str, float]:
    """Of requests for one user each, in this process: both are asked for the same user, in turn, each first half of the
    times, so that whatever else the machine does meets both alike.
    """
    seconds: dict[str, list[float]] = {name: [] for name in pipelines}
    for number in range(_NUM_WARM_UP + num_requests):
        request = Request.of([raw_ids[number % len(raw_ids)]], k=k, timestamp=moment, seed=number)
        order = list(pipelines) if number % 2 else list(reversed(pipelines))
        for name in order:
            begun = time.perf_counter()
            pipelines[name].recommend(request)
            if number >= _NUM_WARM_UP:
                seconds[name].append(time.perf_counter() - begun)
    return {name: 1_000 * float(np.median(values)) for name, values in seconds.items()}


def _seen_by_live(live: Artifact, new: Artifact) -> str | None:
    """Why the live run's models cannot be judged on the new run's test period; None if they can."""
    until, begin = live.metrics["test_from"], new.metrics["test_from"]
    if until <= begin:
        return None
    return (
        f"the live run has learned from what came before {until} (Unix seconds), and the new run's test period begins "
        f"earlier, at {begin}: they are split otherwise; keep etl.split as it is"
    )


def _asking(pipeline: Pipeline, config: EvaluationConfig, moment: int, seed: int) -> Callable[[list[str]], Reply]:
    def asked(users: list[str]) -> Reply:
        return pipeline.recommend(
            Request.of(users, k=config.slate_k, timestamp=moment, seed=seed, with_candidates=True)
        )

    return asked


def _quality(
    rankings: dict[str, dict[str, np.ndarray]], users: HeldOut, config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    found = {}
    for stage, metric in (("slate", f"ndcg@{config.slate_k}"), ("candidates", f"recall@{config.candidate_k}")):
        new_B, live_B = (user_values(rankings[name][stage], users, config)[metric] for name in (NEW, LIVE))
        difference = bootstrap_difference(new_B, live_B, config.num_bootstrap, seed=seed, level=config.level)
        means = {NEW: float(np.nanmean(new_B)), LIVE: float(np.nanmean(live_B))}
        found[f"{stage} {metric}"] = means | {"difference": asdict(difference), "higher_is_better": True}
    return found


def _shown(slate_BK: np.ndarray) -> np.ndarray:
    """Item rows in any slate."""
    return np.unique(slate_BK[slate_BK >= 0])
