"""Measuring a run through a server that serves it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ensemble.client import RecommendClient
from features.artifact import open_artifact
from pipelines.config import CascadeConfig
from pipelines.evaluate import evaluate


def measure(client: RecommendClient, config: CascadeConfig, out: Path) -> None:
    """Ask for every test user, print the tables, write `evaluation.json` into the run folder.

    Args:
        client: of a server of this run.
        config: the run's.
        out: the run's folder.
    """
    batch_users = min(config.evaluation.batch_users, config.export.max_batch_size)
    evaluate(
        out / "etl",
        lambda users: client.recommend(users, k=config.evaluation.slate_k, with_candidates=True),
        replace(config.evaluation, batch_users=batch_users),
        config.etl.drop_seen,
        out=out,
        seed=config.seed,
        about={"export_content_hash": open_artifact(out / "export", "export").content_hash},
    )
