"""Tuning a baseline: settings are fitted on train and compared on validation users."""

from __future__ import annotations

import itertools
import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from tqdm import tqdm

from pipelines.baselines.baseline import Baseline, ColdBaseline
from pipelines.baselines.events import Events
from retrieval.metrics import RelevantItems, ndcg_at_k, recall_at_k

STAGES = ("slate", "candidates")
"""What every baseline is tuned for: NDCG of a slate, recall of candidates."""

COLD = "cold"
"""A stage more of those that can rank items without interactions: recall of such items when only they are ranked."""

_SECONDS_BETWEEN_LINES = 15.0

_log = logging.getLogger(__name__)


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

    @cached_property
    def cold_relevant(self) -> RelevantItems:
        """Those of the relevant items that nobody had before."""
        return self.relevant.where(self.seen.item_counts[self.relevant.item_row] == 0)


@dataclass(frozen=True)
class Trial:
    """One setting and what it scored on validation."""

    baseline: Baseline
    slate: float
    """Mean NDCG at the slate's length."""
    candidates: float
    """Mean recall at the number of candidates."""
    cold: float
    """Mean recall of the items that nobody had before when only those are ranked; nan where that is not asked."""
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        return {
            "settings": settings_of(self.baseline),
            "ndcg": self.slate,
            "recall": self.candidates,
            **({} if math.isnan(self.cold) else {"cold_recall": self.cold}),
            "seconds": round(self.seconds, 3),
        }


@dataclass(frozen=True)
class Tuned:
    """The best setting for each stage, and everything that was tried."""

    best: Mapping[str, Baseline]
    """By stage of `stages_of`: each number is reported with the setting that is best for it."""
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
    with tqdm(desc=f"baseline {kind.name}", unit=" settings", disable=None, leave=False) as bar:
        progress = _Progress(kind.name, bar)

        def attempt(baselines: Sequence[Baseline]) -> None:
            fresh = [one for one in baselines if not any(trial.baseline == one for trial in trials)]
            progress.expect(len(fresh))
            for baseline in fresh:
                trials.append(_trial(baseline, train, held_out, slate_k, candidate_k, drop_seen))
                progress.done()

        attempt(kind.grid(train, fill_days["slate"]))
        stages = stages_of(trials[0].baseline)
        for stage in stages:
            for round_number in itertools.count(1):
                around = _best(trials, stage).finer(round_number)
                if not around:
                    break
                attempt(around)
    fill = dict(fill_days) | {COLD: fill_days["candidates"]}
    return Tuned({stage: _with_fill(_best(trials, stage), fill[stage]) for stage in stages}, trials)


def stages_of(baseline: Baseline) -> tuple[str, ...]:
    """The stages it is tuned for."""
    return (*STAGES, COLD) if isinstance(baseline, ColdBaseline) else STAGES


def settings_of(baseline: Baseline) -> dict[str, Any]:
    """The settings by name, without the baseline's own name."""
    return {key: value for key, value in asdict(baseline).items() if key != "name"}


def _trial(
    baseline: Baseline, train: Events, held_out: HeldOut, slate_k: int, candidate_k: int, drop_seen: bool
) -> Trial:
    begun = time.monotonic()
    fitted = baseline.fit(train)
    ranked_BK = fitted.recommend(held_out.user_rows, held_out.seen, candidate_k, drop_seen)
    slate = float(np.mean(ndcg_at_k(ranked_BK, held_out.relevant, slate_k)))
    recall = float(np.mean(recall_at_k(ranked_BK, held_out.relevant, candidate_k)))
    cold = float("nan")
    if isinstance(fitted, ColdBaseline) and held_out.cold_relevant.count.any():
        cold_BK = fitted.recommend_cold(held_out.user_rows, held_out.seen, candidate_k)
        cold = float(np.nanmean(recall_at_k(cold_BK, held_out.cold_relevant, candidate_k)))
    return Trial(replace(baseline), slate, recall, cold, time.monotonic() - begun)


@dataclass
class _Progress:
    """A bar on a terminal; in a log a line now and then."""

    name: str
    bar: tqdm
    num_done: int = 0
    num_expected: int = 0

    def __post_init__(self) -> None:
        self.begun = self.said = time.monotonic()

    def expect(self, num_settings: int) -> None:
        self.num_expected += num_settings
        self.bar.total = self.num_expected
        self.bar.refresh()

    def done(self) -> None:
        self.num_done += 1
        self.bar.update()
        now = time.monotonic()
        if now - self.said < _SECONDS_BETWEEN_LINES:
            return
        self.said = now
        each = (now - self.begun) / self.num_done
        left = each * (self.num_expected - self.num_done)
        _log.info(
            "baseline %s: setting %d of %d so far, %.1f s each, about %.0f s left of these",
            self.name,
            self.num_done,
            self.num_expected,
            each,
            left,
        )


def _best(trials: list[Trial], stage: str) -> Baseline:
    """The first of the trials with the highest score; where no user has a cold item, that of the candidates."""
    if stage == COLD and math.isnan(trials[0].cold):
        stage = "candidates"
    return max(trials, key=lambda trial: getattr(trial, stage)).baseline


def _with_fill(baseline: Baseline, fill_days: float) -> Baseline:
    return replace(baseline, fill_days=fill_days) if "fill_days" in settings_of(baseline) else baseline
