"""Tuning a baseline: settings are fitted on train and compared on validation users."""

from __future__ import annotations

import itertools
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from pipelines.baselines.baseline import Baseline
from pipelines.baselines.events import Events
from retrieval.metrics import RelevantItems, ndcg_at_k, recall_at_k

STAGES = ("slate", "candidates")


@dataclass(frozen=True)
class HeldOut:
    """Users who come back after the training events, and what they took then."""

    user_rows: np.ndarray
    """[B] user rows, ascending."""
    relevant: RelevantItems
    """Their distinct later items; none of `seen` if those are dropped."""
    seen: Events
    """What was known of them before."""

    @classmethod
    def after(cls, seen: Events, later: Events, *, drop_seen: bool, max_users: int, seed: int) -> HeldOut:
        """Users with a relevant later event.

        Args:
            seen: events before.
            later: events after.
            drop_seen: whether items of `seen` are no longer relevant; users left without any are left out.
            max_users: sample of that many users, drawn with the seed; 0 for all.
        """
        user, item = later.user_row, later.item_row
        if drop_seen:
            known = np.unique(seen.user_row * seen.num_items + seen.item_row)
            fresh = ~np.isin(user * seen.num_items + item, known)
            user, item = user[fresh], item[fresh]
        user_rows = np.unique(user)
        if max_users and len(user_rows) > max_users:
            user_rows = np.sort(np.random.default_rng(seed).choice(user_rows, max_users, replace=False))
        kept = np.isin(user, user_rows)
        position = np.searchsorted(user_rows, user[kept])
        return cls(user_rows, RelevantItems.from_pairs(position, item[kept], len(user_rows)), seen)


@dataclass(frozen=True)
class Trial:
    """One setting and what it scored on validation."""

    baseline: Baseline
    slate: float
    """Mean NDCG at the slate's length."""
    candidates: float
    """Mean recall at the number of candidates."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "settings": settings_of(self.baseline),
            "ndcg": self.slate,
            "recall": self.candidates,
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Tuned:
    """The best setting for each stage, and everything that was tried."""

    best: Mapping[str, Baseline]
    """By stage of STAGES: each number is reported with the setting that is best for it."""
    trials: list[Trial]


def tuned(
    kind: type[Baseline],
    train: Events,
    held_out: HeldOut,
    *,
    slate_k: int,
    candidate_k: int,
    drop_seen: bool,
    fill_days: Mapping[str, float],
) -> Tuned:
    """Try the grid, then the finer settings around the best of each stage.

    Args:
        kind: the baseline.
        train: events to fit on.
        held_out: validation users; `held_out.seen` is what they are recommended from.
        slate_k: length of the slate; its stage is judged by NDCG@slate_k.
        candidate_k: number of candidates; their stage is judged by recall@candidate_k.
        drop_seen: as in `Baseline.recommend`.
        fill_days: window of the filling popularity for each stage.
    """
    trials: list[Trial] = []

    def attempt(candidates: list[Baseline]) -> None:
        for baseline in candidates:
            if any(trial.baseline == baseline for trial in trials):
                continue
            begun = time.monotonic()
            ranked_BK = baseline.fit(train).recommend(held_out.user_rows, held_out.seen, candidate_k, drop_seen)
            slate = float(np.mean(ndcg_at_k(ranked_BK, held_out.relevant, slate_k)))
            recall = float(np.mean(recall_at_k(ranked_BK, held_out.relevant, candidate_k)))
            trials.append(Trial(replace(baseline), slate, recall, time.monotonic() - begun))

    attempt(list(kind.grid(train, fill_days["slate"])))
    for stage in STAGES:
        for round_number in itertools.count(1):
            around = _best(trials, stage).finer(round_number)
            if not around:
                break
            attempt(list(around))
    best = {stage: _with_fill(_best(trials, stage), fill_days[stage]) for stage in STAGES}
    return Tuned(best, trials)


def settings_of(baseline: Baseline) -> dict[str, Any]:
    """The settings by name, without the baseline's own name."""
    return {key: value for key, value in asdict(baseline).items() if key != "name"}


def _best(trials: list[Trial], stage: str) -> Baseline:
    """The first of the trials with the highest score."""
    return max(trials, key=lambda trial: getattr(trial, stage)).baseline


def _with_fill(baseline: Baseline, fill_days: float) -> Baseline:
    return replace(baseline, fill_days=fill_days) if "fill_days" in settings_of(baseline) else baseline
