"""Quality of the candidates: the merged stage and each of its sources alone, beside tuned baselines."""

# B test users  K candidates  N items of the catalogue

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from pipelines.baselines import BaselineResult, HeldOut
from pipelines.candidates_table import print_candidates
from pipelines.cohorts import recall_by_cohort, recalls
from pipelines.evaluation_config import EvaluationConfig
from pipelines.evaluation_world import EvaluationError, World, interval, item_rows, seen_items, tuning_report
from pipelines.report_file import write_report
from retrieval.metrics import (
    bootstrap_difference,
    bootstrap_ratio,
    coverage_at_k,
    gini_at_k,
    ndcg_at_k,
    novelty_at_k,
    recall_at_k,
)

MERGED, TWO_TOWER = "merged", "two_tower"

SOURCE = "source_"
"""What leads the name of a source in the report: co-visitation is a source and a baseline."""

GOAL = 1.05
"""Times the best baseline's recall that the merged stage is to reach."""

PROTOCOL = (
    "Global split by time. Users with a test event are asked for after training on what came before; relevant are "
    "their distinct test items{dropped}. The full catalogue is ranked, nothing is sampled. Baselines are tuned for "
    "recall@{k} on train -> validation and refitted on both. The best baseline is the one with the highest recall@{k} "
    "on the test users, which favours it; two of them read the catalogue's attributes and texts too. Intervals are "
    "bootstrapped over users; differences and ratios are paired."
)

Propose = Callable[[list[str]], Mapping[str, np.ndarray]]
"""Raw user ids [B] -> system -> raw item ids [B, any], best first, "" pads: "merged", and its sources alone."""

_log = logging.getLogger(__name__)


def evaluate_candidates(
    etl_dir: Path,
    propose: Propose,
    config: EvaluationConfig,
    drop_seen: bool,
    *,
    out: Path,
    seed: int = 0,
    propose_cold: Propose | None = None,
    about: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask the candidate stage for every test user, measure it and its sources, and the baselines beside them.

    Args:
        etl_dir: the etl artifact the candidate stage was trained from.
        propose: gives "merged" for every user; a source may give fewer items, or be missing from a reply.
        config: cut-offs and sizes, as for `evaluate`.
        drop_seen: whether items that a user had must not come back.
        out: folder for `candidates.json` (the report) and `baselines.parquet` (shared with `evaluate`).
        seed: of sampled users and of the bootstrap.
        propose_cold: as `propose`, from a catalogue of only the items that nobody had before the test period.
        about: what the protocol says besides, such as whose proposals they are.
    Returns: what `candidates.json` holds.
    Raises: ArtifactError if the etl artifact is missing or damaged; EvaluationError if no test user has a relevant
        item, "merged" is missing, an item is not in the catalogue, or `propose_cold` names one that is not cold;
        ValueError if an item is repeated.
    """
    world = World.read(etl_dir)
    users = world.test_users(config, drop_seen, seed)
    ours = _asked(propose, world, users, config)
    cold_ours = _cold_asked(propose_cold, world, users, config) if propose_cold else {}
    every = world.baselines(users, config, drop_seen, out, seed)
    baselines = [one for one in every if not one.skipped]
    rankings = ours | {one.name: one.candidates_BK for one in baselines}
    recall = {system: recall_at_k(one, users.relevant, config.candidate_k) for system, one in rankings.items()}
    names = [one.name for one in baselines]
    dropped = " that they did not have before" if drop_seen else ""
    report = {
        "protocol": {
            "description": PROTOCOL.format(dropped=dropped, k=config.candidate_k),
            **world.protocol(users, config, drop_seen),
            **(about or {}),
        },
        "merged": {
            "short_lists": int(((ours[MERGED] >= 0).sum(axis=1) < config.candidate_k).sum()),
            "seen_items": seen_items(ours[MERGED], users),
        },
        "systems": {system: _summary(one, users, config, seed) for system, one in rankings.items()},
        "best_baseline": {
            "of_all": _best(recall, names, config, seed),
            "of_those_that_read_interactions_only": _best(
                recall, [one.name for one in baselines if not one.cold_BK.size], config, seed
            ),
        },
        "merged_minus": _compared(bootstrap_difference, recall, MERGED, names, config, seed),
        "merged_over": _compared(bootstrap_ratio, recall, MERGED, names, config, seed),
        "two_tower_minus": _compared(bootstrap_difference, recall, SOURCE + TWO_TOWER, names, config, seed),
        "cold_items": _cold_items(rankings, cold_ours, baselines, users, config, seed),
        **recall_by_cohort(rankings, users, config, seed),
        "baselines": tuning_report(every),
    }
    report = write_report(report, out / "candidates.json")
    _log.info("candidates: wrote %s", out / "candidates.json")
    print_candidates(report)
    return report


def _asked(propose: Propose, world: World, users: HeldOut, config: EvaluationConfig) -> dict[str, np.ndarray]:
    """[B, candidate_k] item rows of "merged" and of each source; a source that says nothing has -1 throughout."""
    raw_ids = world.raw_ids(users)
    rows: dict[str, np.ndarray] = {}
    for start in range(0, len(raw_ids), config.batch_users):
        asked = raw_ids[start : start + config.batch_users]
        reply = propose(asked)
        if MERGED not in reply:
            raise EvaluationError(f"the candidate stage gave {sorted(reply)}; {MERGED!r} must be among them")
        for system, ids in reply.items():
            if len(ids) != len(asked):
                raise ValueError(f"the candidate stage was asked for {len(asked)} users, {system} gave {len(ids)}")
            name = MERGED if system == MERGED else SOURCE + system
            whole = rows.setdefault(name, np.full((len(raw_ids), config.candidate_k), -1, np.int64))
            whole[start : start + len(asked)] = item_rows(ids, config.candidate_k, world.item_ids, system)
    return {name: rows[name] for name in sorted(rows, key=lambda name: name != MERGED)}


def _cold_asked(propose: Propose, world: World, users: HeldOut, config: EvaluationConfig) -> dict[str, np.ndarray]:
    ours = _asked(propose, world, users, config)
    for system, ranked_BK in ours.items():
        warm = ranked_BK[(ranked_BK >= 0) & (world.known.item_counts[ranked_BK] > 0)]
        if len(warm):
            raise EvaluationError(
                f"{system} was to propose items that nobody had before the test period, and named "
                f"{world.item_ids[int(warm[0])].as_py()!r} with {world.known.item_counts[warm[0]]} interactions"
            )
    return ours


def _summary(ranked_BK: np.ndarray, users: HeldOut, config: EvaluationConfig, seed: int) -> dict[str, Any]:
    k, num_items = config.candidate_k, users.seen.num_items
    values = {f"recall@{cut}": recall_at_k(ranked_BK, users.relevant, cut) for cut in config.recall_ks if cut <= k}
    values[f"ndcg@{config.slate_k}"] = ndcg_at_k(ranked_BK, users.relevant, config.slate_k)
    values[f"novelty@{k}"] = novelty_at_k(ranked_BK, users.seen.item_counts, k)
    return {name: interval(one, config, seed) for name, one in values.items()} | {
        f"coverage@{k}": {"mean": coverage_at_k(ranked_BK, num_items, k)},
        f"gini@{k}": {"mean": gini_at_k(ranked_BK, num_items, k)},
        "num_candidates": {"mean": float((ranked_BK >= 0).sum(axis=1).mean())},
    }


def _compared(
    comparison: Callable[..., Any],
    recall: Mapping[str, np.ndarray],
    system: str,
    others: Sequence[str],
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """By baseline, the system's recall@candidate_k beside its own; empty if the system is not among them."""
    if system not in recall:
        return {}
    return {
        name: asdict(comparison(recall[system], recall[name], config.num_bootstrap, seed=seed, level=config.level))
        for name in others
        if name in recall
    }


def _best(
    recall: Mapping[str, np.ndarray], names: Sequence[str], config: EvaluationConfig, seed: int
) -> dict[str, Any]:
    """The baseline with the highest recall@candidate_k, and the merged stage beside it."""
    name = max(names, key=lambda one: float(recall[one].mean()))
    ratio = _compared(bootstrap_ratio, recall, MERGED, [name], config, seed)[name]
    met = bool(ratio["mean"] >= GOAL)
    return {"name": name, "recall": float(recall[name].mean()), "ratio": ratio, "goal": GOAL, "met": met}


def _cold_items(
    rankings: Mapping[str, np.ndarray],
    cold_ours: Mapping[str, np.ndarray],
    baselines: Sequence[BaselineResult],
    users: HeldOut,
    config: EvaluationConfig,
    seed: int,
) -> dict[str, Any]:
    """Recall over the relevant items that nobody had before: from the full catalogue, and when only they are ranked."""
    relevant, k = users.cold_relevant, config.candidate_k
    content = {one.name: one.cold_BK for one in baselines if one.cold_BK.size}
    cold_only = dict(cold_ours) | content
    report: dict[str, Any] = {
        "num_items": len(users.seen.cold_rows),
        "num_users": int((relevant.count > 0).sum()),
        "chance": min(1.0, k / max(len(users.seen.cold_rows), 1)),
    }
    for variant, ranked in (("full_catalogue", rankings), ("cold_only", cold_only)):
        values = {system: recall_at_k(one, relevant, k) for system, one in ranked.items()}
        report[variant] = {
            "recall": recalls(ranked, relevant, config, seed),
            "merged_minus": _compared(bootstrap_difference, values, MERGED, list(content), config, seed),
            "two_tower_minus": _compared(bootstrap_difference, values, SOURCE + TWO_TOWER, list(content), config, seed),
        }
    return report
