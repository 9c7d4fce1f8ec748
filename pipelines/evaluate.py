"""Quality as served: what the running pipeline answers the test users, per stage, beside tuned baselines."""

# B test users  K ranked slots  N items of the catalogue

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from pipelines.baselines import HeldOut
from pipelines.cohorts import recall_by_cohort
from pipelines.evaluation_config import EvaluationConfig
from pipelines.evaluation_table import print_report
from pipelines.evaluation_values import write_user_values
from pipelines.evaluation_world import EvaluationError, World, interval, item_rows, seen_items, tuning_report
from pipelines.report_file import write_report
from retrieval.metrics import (
    bootstrap_difference,
    bootstrap_ratio,
    coverage_at_k,
    gini_at_k,
    hit_rate_at_k,
    map_at_k,
    mrr_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
)

__all__ = ["EvaluationConfig", "EvaluationError", "Served", "ask", "evaluate", "user_values"]

MAP_K = 12
"""H&M's cut-off; a slate shorter than it counts as padded with empty slots, for Cascade and baselines alike."""

PROTOCOL = (
    "Global split by time. Users with a test event are asked for after training on what came before; relevant are "
    "their distinct test items{dropped}. The full catalogue is ranked, nothing is sampled. Baselines are tuned on "
    "train -> validation, refitted on both, and each stage shows the setting that was best for it on validation: "
    "recall@{candidate_k} for candidates, NDCG@{slate_k} for the slate. The system unranked is the first {slate_k} of "
    "the candidates as retrieval orders them. Intervals are bootstrapped over users, differences and ratios paired by "
    "user."
)

UNRANKED = "unranked"
"""The slates that retrieval's own order of the candidates would have given: what the ranker must beat."""

_log = logging.getLogger(__name__)


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
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the served pipeline for every test user, measure each stage, and fit the baselines beside it.

    Args:
        etl_dir: the etl artifact the pipeline was trained from.
        recommend: raw user ids -> reply with slates of config.slate_k, candidates and their ranking.
        config: cut-offs and sizes.
        drop_seen: whether the pipeline was told not to show again what a user had.
        out: folder for `evaluation.json` (the report), `evaluation_users.parquet` (Cascade's metrics of every user)
            and `baselines.parquet` (their cached rankings).
        seed: of sampled users and of the bootstrap.
        about: what the protocol says besides, such as whose answers they are.
    Returns: what `evaluation.json` holds.
    Raises: ArtifactError if the etl artifact is missing or damaged; EvaluationError if no test user has a relevant
        item or the pipeline names an item outside the catalogue; ValueError if it repeats one.
    """
    world = World.read(etl_dir)
    users = world.test_users(config, drop_seen, seed)
    served, sources = ask(recommend, world, users, config)
    baselines = world.baselines(users, config, drop_seen, out, seed)
    unranked = {"candidates": served["candidates"], "slate": served["candidates"][:, : config.slate_k]}
    rankings = {"cascade": served, UNRANKED: unranked} | {
        one.name: {"candidates": one.candidates_BK, "slate": one.slate_BK} for one in baselines if not one.skipped
    }
    values = {
        system: {stage: user_values(ranked_BK, users, config) for stage, ranked_BK in stages.items()}
        for system, stages in rankings.items()
    }
    report = {
        "protocol": _protocol(world, users, config, drop_seen) | dict(about or {}),
        "served": {"sources": sources, **_guarantees(served["slate"], users, config)},
        "systems": {
            system: {
                stage: _summary(ranked_BK, values[system][stage], users, config, seed)
                for stage, ranked_BK in stages.items()
            }
            for system, stages in rankings.items()
        },
        "cohorts": _cohorts(rankings, values, users, config, seed),
        **recall_by_cohort({name: one["candidates"] for name, one in rankings.items()}, users, config, seed),
        "cascade_minus": _differences(values, config, seed),
        "ranked_over_unranked": _ranking_ratios(values, config, seed),
        "baselines": tuning_report(baselines),
    }
    write_user_values(world.raw_ids(users), values["cascade"], out)
    report = write_report(report, out / "evaluation.json")
    _log.info("evaluation: wrote %s", out / "evaluation.json")
    print_report(report)
    return report


def ask(
    recommend: Callable[[list[str]], Served], world: World, users: HeldOut, config: EvaluationConfig
) -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """What the users are answered: item rows [B, K] of each stage, and how many users got which source."""
    raw_ids = world.raw_ids(users)
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
            rows[stage].append(item_rows(ids, width[stage], world.item_ids, stage))
        sources.update(str(source) for source in np.ravel(reply.source))
    return {stage: np.concatenate(parts) for stage, parts in rows.items()}, dict(sorted(sources.items()))


def user_values(ranked_BK: np.ndarray, users: HeldOut, config: EvaluationConfig) -> Values:
    """One value a user of each metric of rankings [B, K]."""
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
) -> dict[str, Any]:
    summary: dict[str, Any] = {name: interval(one, config, seed) for name, one in values.items()}
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
                f"{stage} {name}": interval(stages[stage][name][chosen_B], config, seed) for stage, name in headline
            }
            for system, stages in values.items()
        }
        for cohort, chosen_B in (("warm_users", warm_B), ("cold_users", ~warm_B))
    }
    cold_items = users.cold_relevant
    k = config.candidate_k
    cohorts["cold_items"] = {
        system: {f"candidates recall@{k}": interval(recall_at_k(stages["candidates"], cold_items, k), config, seed)}
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


def _ranking_ratios(values: Mapping[str, Mapping[str, Values]], config: EvaluationConfig, seed: int) -> dict[str, Any]:
    """What the ranker makes of the same candidates: means of the slate over those of retrieval's own order."""
    ranked, unranked = values["cascade"]["slate"], values[UNRANKED]["slate"]
    return {
        name: asdict(bootstrap_ratio(ranked[name], unranked[name], config.num_bootstrap, seed=seed, level=config.level))
        for name in (f"ndcg@{config.slate_k}", f"recall@{config.slate_k}", f"mrr@{config.slate_k}")
    }


def _guarantees(slate_BK: np.ndarray, users: HeldOut, config: EvaluationConfig) -> dict[str, int]:
    """What the request path promises, counted: full slates, and how many items the user already had."""
    return {
        "short_slates": int(((slate_BK >= 0).sum(axis=1) < config.slate_k).sum()),
        "seen_items_in_slates": seen_items(slate_BK, users),
    }


def _protocol(world: World, users: HeldOut, config: EvaluationConfig, drop_seen: bool) -> dict[str, Any]:
    dropped = " that they did not have before" if drop_seen else ""
    description = PROTOCOL.format(dropped=dropped, candidate_k=config.candidate_k, slate_k=config.slate_k)
    return {"description": description, **world.protocol(users, config, drop_seen)}
