"""Quality as served: what the running pipeline answers the test users, per stage, beside tuned baselines."""

# B test users  K ranked slots  N items of the catalogue

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass

from features.artifact import open_artifact
from features.errors import CascadeError
from features.split import TEST, TRAIN, VALID
from pipelines.baselines import BaselineResult, Events, HeldOut, cached_baselines, run_baselines
from pipelines.evaluation_table import print_report
from pipelines.report_file import write_report
from retrieval.metrics import (
    bootstrap_difference,
    bootstrap_interval,
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
)

MAP_K = 12
"""H&M's cut-off; a slate shorter than it counts as padded with empty slots, for Cascade and baselines alike."""

PROTOCOL = (
    "Global split by time. Users with a test event are asked for after training on what came before; relevant are "
    "their distinct test items{dropped}. The full catalogue is ranked, nothing is sampled. Baselines are tuned on "
    "train -> validation, refitted on both, and each stage shows the setting that was best for it on validation: "
    "recall@{candidate_k} for candidates, NDCG@{slate_k} for the slate. Intervals are bootstrapped over users, "
    "differences paired by user."
)

_log = logging.getLogger(__name__)


class EvaluationError(CascadeError, ValueError):
    """The served pipeline cannot be measured on this run."""


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvaluationConfig:
    """Evaluation of the served pipeline."""

    slate_k: Annotated[int, Field(ge=1)] = 10
    """Items of a slate."""
    candidate_k: Annotated[int, Field(ge=1)] = 100
    """Candidates that count, the first ones; at least slate_k."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = (20, 50)
    """Cut-offs of recall besides slate_k and candidate_k, in items."""
    num_bootstrap: Annotated[int, Field(ge=1)] = 1000
    """Resamples of the users behind each interval."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Probability inside an interval."""
    max_users: Annotated[int, Field(ge=0)] = 0
    """Test users, a seeded sample; 0 for all."""
    max_tuning_users: Annotated[int, Field(ge=0)] = 2000
    """Validation users that judge a baseline's setting, a seeded sample; 0 for all."""
    batch_users: Annotated[int, Field(ge=1)] = 64
    """Users asked for in one call."""

    def __post_init__(self) -> None:
        if self.slate_k > self.candidate_k:
            raise ValueError(f"slate_k ({self.slate_k}) must be at most candidate_k ({self.candidate_k})")

    @property
    def recall_ks(self) -> list[int]:
        """All cut-offs of recall, ascending."""
        return sorted({*self.ks, self.slate_k, self.candidate_k})


class Served(Protocol):
    """A reply for B users: raw ids as text, best first, "" pads."""

    @property
    def candidate_ids(self) -> np.ndarray:
        """[B, any] in retrieval order."""
        ...

    @property
    def ranked_ids(self) -> np.ndarray:
        """[B, any] in the ranker's order."""
        ...

    @property
    def item_ids(self) -> np.ndarray:
        """[B, any] the slate."""
        ...

    @property
    def source(self) -> np.ndarray:
        """[B] what was served: personal, cold, fallback, degraded."""
        ...


@dataclass(frozen=True, eq=False)
class _World:
    """The etl artifact as the evaluation sees it."""

    train: Events
    valid: Events
    known: Events
    test: Events
    user_ids: pa.Array
    item_ids: pa.Array
    content_hash: str


Values = dict[str, np.ndarray]
"""Metric name -> one value a test user."""


def evaluate(
    etl_dir: Path,
    recommend: Callable[[list[str]], Served],
    config: EvaluationConfig,
    drop_seen: bool,
    *,
    out: Path,
    seed: int = 0,
) -> dict[str, Any]:
    """Ask the served pipeline for every test user, measure each stage, and fit the baselines beside it.

    Args:
        etl_dir: the etl artifact the pipeline was trained from.
        recommend: raw user ids -> reply with slates of config.slate_k, candidates and their ranking.
        config: cut-offs and sizes.
        drop_seen: whether the pipeline was told not to show again what a user had.
        out: folder for `evaluation.json` (the report) and `baselines.parquet` (their cached rankings).
        seed: of sampled users and of the bootstrap.
    Returns: what `evaluation.json` holds.
    Raises: ArtifactError if the etl artifact is missing or damaged; EvaluationError if no test user has a relevant
        item or the pipeline names an item outside the catalogue; ValueError if it repeats one.
    """
    world = _read_world(etl_dir)
    users = HeldOut.after(world.known, world.test, drop_seen=drop_seen, max_users=config.max_users, seed=seed)
    if not len(users.user_rows):
        raise EvaluationError(
            f"{etl_dir}: {len(world.test)} test events leave no user with a relevant item (drop_seen={drop_seen}); "
            "raise etl.split.test_share or give more interactions"
        )
    served, sources = _ask(recommend, world, users, config)
    baselines = _baselines(world, users, config, drop_seen, out, seed)
    rankings = {"cascade": served} | {
        one.name: {"candidates": one.candidates_BK, "slate": one.slate_BK} for one in baselines if not one.skipped
    }
    values = {
        system: {stage: _values(ranked_BK, users, config) for stage, ranked_BK in stages.items()}
        for system, stages in rankings.items()
    }
    report = {
        "protocol": _protocol(world, users, config, drop_seen),
        "served": {"sources": sources, **_guarantees(served["slate"], users, config)},
        "systems": {
            system: {
                stage: _summary(ranked_BK, values[system][stage], users, config, seed)
                for stage, ranked_BK in stages.items()
            }
            for system, stages in rankings.items()
        },
        "cohorts": _cohorts(rankings, values, users, config, seed),
        "cascade_minus": _differences(values, config, seed),
        "baselines": {
            one.name: {
                "skipped": one.skipped,
                "settings": one.settings,
                "trials": one.trials,
                "seconds": one.seconds,
            }
            for one in baselines
        },
    }
    report = write_report(report, out / "evaluation.json")
    _log.info("evaluation: wrote %s", out / "evaluation.json")
    print_report(report)
    return report


def _read_world(etl_dir: Path) -> _World:
    artifact = open_artifact(etl_dir, "etl")
    user_ids = pq.read_table(artifact.file("users.parquet"), columns=["raw_id"])["raw_id"].combine_chunks()
    item_ids = pq.read_table(artifact.file("items.parquet"), columns=["raw_id"])["raw_id"].combine_chunks()
    table = pq.read_table(artifact.file("events.parquet"), columns=["user_row", "item_row", "timestamp", "split"])
    user_row, item_row, timestamp, split = (table[name].to_numpy() for name in table.column_names)
    events = Events(user_row, item_row, timestamp, len(user_ids), len(item_ids))
    return _World(
        events.where(split == TRAIN),
        events.where(split == VALID),
        events.where(split != TEST),
        events.where(split == TEST),
        user_ids,
        item_ids,
        artifact.content_hash,
    )


def _ask(
    recommend: Callable[[list[str]], Served], world: _World, users: HeldOut, config: EvaluationConfig
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """Item rows [B, K] of each stage, and how many users got which source."""
    raw_ids = world.user_ids.take(pa.array(users.user_rows)).to_pylist()
    width = {"candidates": config.candidate_k, "ranked": config.candidate_k, "slate": config.slate_k}
    rows: dict[str, list[np.ndarray]] = {stage: [] for stage in width}
    sources: Counter[str] = Counter()
    for start in range(0, len(raw_ids), config.batch_users):
        asked = raw_ids[start : start + config.batch_users]
        reply = recommend(asked)
        stages = {"candidates": reply.candidate_ids, "ranked": reply.ranked_ids, "slate": reply.item_ids}
        for stage, ids in stages.items():
            if len(ids) != len(asked):
                raise ValueError(f"the pipeline was asked for {len(asked)} users and gave {stage} of {len(ids)}")
            rows[stage].append(_item_rows(ids, width[stage], world.item_ids, stage))
        sources.update(str(source) for source in np.ravel(reply.source))
    return {stage: np.concatenate(parts) for stage, parts in rows.items()}, dict(sorted(sources.items()))


def _item_rows(ids: np.ndarray, width: int, catalogue: pa.Array, stage: str) -> np.ndarray:
    """[B, width] item rows of raw ids [B, any], cut or padded with -1 to the width."""
    flat = pa.array(np.ravel(ids[:, :width]), catalogue.type)
    found = pc.index_in(flat, value_set=catalogue)
    invented = pc.and_(pc.is_null(found), pc.not_equal(flat, "")).to_numpy(zero_copy_only=False)
    if invented.any():
        raise EvaluationError(
            f"the pipeline's {stage} name item {flat[int(invented.argmax())].as_py()!r}, which is not in the catalogue "
            f"of {len(catalogue)} items: it serves another run than the etl artifact given"
        )
    rows = np.full((len(ids), width), -1, np.int64)
    rows[:, : min(width, ids.shape[1])] = pc.fill_null(found, -1).to_numpy().reshape(len(ids), -1)
    return rows


def _baselines(
    world: _World, users: HeldOut, config: EvaluationConfig, drop_seen: bool, out: Path, seed: int
) -> list[BaselineResult]:
    sizes = {"slate_k": config.slate_k, "candidate_k": config.candidate_k, "max_tuning_users": config.max_tuning_users}
    inputs = {"etl": world.content_hash, "max_users": config.max_users, "drop_seen": drop_seen, "seed": seed, **sizes}
    return cached_baselines(
        out / "baselines.parquet",
        inputs,
        lambda: run_baselines(world.train, world.valid, users.user_rows, drop_seen=drop_seen, seed=seed, **sizes),
    )


def _values(ranked_BK: np.ndarray, users: HeldOut, config: EvaluationConfig) -> Values:
    k = config.slate_k
    values = {
        f"recall@{cut}": recall_at_k(ranked_BK, users.relevant, cut)
        for cut in config.recall_ks
        if cut <= ranked_BK.shape[1]
    }
    missing = max(0, MAP_K - ranked_BK.shape[1])
    padded_BK = np.pad(ranked_BK, ((0, 0), (0, missing)), constant_values=-1)
    return values | {
        f"ndcg@{k}": ndcg_at_k(ranked_BK, users.relevant, k),
        f"mrr@{k}": mrr_at_k(ranked_BK, users.relevant, k),
        f"map@{MAP_K}": map_at_k(padded_BK, users.relevant, MAP_K),
        f"hit_rate@{k}": hit_rate_at_k(ranked_BK, users.relevant, k),
        f"novelty@{k}": novelty_at_k(ranked_BK, users.seen.item_counts, k),
    }


def _summary(
    ranked_BK: np.ndarray, values: Values, users: HeldOut, config: EvaluationConfig, seed: int
) -> dict[str, dict[str, float]]:
    summary = {name: _interval(one, config, seed) for name, one in values.items()}
    k, num_items = config.slate_k, users.seen.num_items
    summary[f"coverage@{k}"] = {"mean": coverage_at_k(ranked_BK, num_items, k)}
    summary[f"gini@{k}"] = {"mean": gini_at_k(ranked_BK, num_items, k)}
    return summary


def _cohorts(
    rankings: Mapping[str, Mapping[str, np.ndarray]],
    values: Mapping[str, Mapping[str, Values]],
    users: HeldOut,
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """Users with and without history; and items that nobody had before the test period."""
    warm_B = users.seen.history.count[users.user_rows] > 0
    headline = (
        ("candidates", f"recall@{config.candidate_k}"),
        ("slate", f"recall@{config.slate_k}"),
        ("slate", f"ndcg@{config.slate_k}"),
    )
    cohorts: dict[str, Any] = {
        cohort: {
            system: {
                f"{stage} {name}": _interval(stages[stage][name][chosen_B], config, seed) for stage, name in headline
            }
            for system, stages in values.items()
        }
        for cohort, chosen_B in (("warm_users", warm_B), ("cold_users", ~warm_B))
    }
    cold_items = users.relevant.where(users.seen.item_counts[users.relevant.item_row] == 0)
    k = config.candidate_k
    cohorts["cold_items"] = {
        system: {f"candidates recall@{k}": _interval(recall_at_k(stages["candidates"], cold_items, k), config, seed)}
        for system, stages in rankings.items()
    }
    return cohorts


def _differences(values: Mapping[str, Mapping[str, Values]], config: EvaluationConfig, seed: int) -> dict[str, Any]:
    ours = values["cascade"]
    headline = (("slate", f"ndcg@{config.slate_k}"), ("candidates", f"recall@{config.candidate_k}"))
    return {
        system: {
            f"{stage} {name}": asdict(
                bootstrap_difference(
                    ours[stage][name], theirs[stage][name], config.num_bootstrap, seed=seed, level=config.level
                )
            )
            for stage, name in headline
        }
        for system, theirs in values.items()
        if system != "cascade"
    }


def _interval(values: np.ndarray, config: EvaluationConfig, seed: int) -> dict[str, float]:
    return asdict(bootstrap_interval(values, config.num_bootstrap, seed=seed, level=config.level))


def _guarantees(slate_BK: np.ndarray, users: HeldOut, config: EvaluationConfig) -> dict[str, int]:
    """What the request path promises, counted: full slates, and how many items the user already had."""
    user, _, item = users.seen.history.slots(users.user_rows)
    had = np.unique(user * users.seen.num_items + item)
    shown_BK = np.where(slate_BK >= 0, np.arange(len(slate_BK))[:, None] * users.seen.num_items + slate_BK, -1)
    return {
        "short_slates": int(((slate_BK >= 0).sum(axis=1) < config.slate_k).sum()),
        "seen_items_in_slates": int(np.isin(shown_BK, had).sum()),
    }


def _protocol(world: _World, users: HeldOut, config: EvaluationConfig, drop_seen: bool) -> dict[str, Any]:
    num_warm = int((world.known.history.count[users.user_rows] > 0).sum())
    dropped = " that they did not have before" if drop_seen else ""
    parts = {"train": world.train, "valid": world.valid, "test": world.test}
    return {
        "description": PROTOCOL.format(dropped=dropped, candidate_k=config.candidate_k, slate_k=config.slate_k),
        "etl_content_hash": world.content_hash,
        "drop_seen": drop_seen,
        "config": asdict(config),  # pyright: ignore[reportArgumentType]
        "seconds_utc": {name: [int(part.timestamp[0]), int(part.timestamp[-1])] for name, part in parts.items()},
        "num_events": {name: len(part) for name, part in parts.items()},
        "num_test_users": len(users.user_rows),
        "num_warm_test_users": num_warm,
        "num_cold_test_users": len(users.user_rows) - num_warm,
        "num_users": len(world.user_ids),
        "num_items": len(world.item_ids),
        "num_items_never_seen_before_test": int((world.known.item_counts == 0).sum()),
    }
