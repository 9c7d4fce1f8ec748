"""Choosing, fitting and merging the candidate sources, on the validation part and then on all that is known."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact
from features.batches import FeatureTables
from features.item_content import read_item_content
from retrieval.candidates import CandidateStage, searching
from retrieval.config import SourcesConfig
from retrieval.index.item_index import ItemIndex
from retrieval.merge import Merge, fitted_weights, side_by_side
from retrieval.metrics import RelevantItems, recall_at_k
from retrieval.sources import FITTED, FittedSource, NewItems, Past, Users
from retrieval.sources.source import settings_of

# B users


@dataclass(frozen=True)
class Asked:
    """Validation users as of the moment before the validation part, and what they took in it."""

    users: Users
    relevant: RelevantItems

    def sampled(self, max_users: int, seed: int) -> Asked:
        """A sample of at most so many users; itself if it has no more."""
        if len(self.users) <= max_users:
            return self
        chosen = np.sort(np.random.default_rng(seed).choice(len(self.users), max_users, replace=False))
        kept = np.isin(self.relevant.user, chosen)
        place = np.searchsorted(chosen, self.relevant.user[kept])
        return Asked(self.users.some(chosen), RelevantItems.from_pairs(place, self.relevant.item_row[kept], max_users))


@dataclass(frozen=True)
class SourceReport:
    """What validation said of a source."""

    settings: dict[str, Any]
    trials: list[dict[str, Any]]
    """Settings tried, with their recall."""
    recall: float


def past_of(etl: Artifact, tables: FeatureTables, config: SourcesConfig) -> Past:
    """All interactions of the log, those of the test part included: take what was `before` a moment."""
    events = pq.read_table(etl.file("events.parquet"), columns=["user_row", "item_row", "timestamp"])
    user_row, item_row, timestamp = (events[name].to_numpy() for name in events.column_names)
    attributes = tables.user_features(torch.arange(etl.metrics["num_users"]))
    return Past(
        user_row,
        item_row,
        timestamp,
        etl.metrics["num_users"],
        etl.metrics["num_items"],
        {name: values.numpy() for name, values in attributes.items() if name != "user_id"},
        content=read_item_content(etl),
        may_repeat=not etl.manifest["config"]["drop_seen"],
        max_linear_items=config.linear_max_items,
    )


def fit_stage(
    config: SourcesConfig, past: Past, index: ItemIndex, asked: Asked, recall_at: int, seed: int
) -> tuple[CandidateStage, dict[str, SourceReport]]:
    """Sources fitted on the past with the settings that find most of what came after, and their learned merge.

    Args:
        index: of item vectors of that moment, by a model that has not seen what came after.
    Returns: the stage, and by source what validation said; under "merged" what it said of the whole.
    """
    reports: dict[str, SourceReport] = {}
    fitted: list[FittedSource] = []
    sample = past.of_some_users(config.max_tuning_interactions, seed)
    few = asked.sampled(config.max_tuning_users, seed)
    for kind in FITTED:
        if not getattr(config, kind.name):
            continue
        trials, best, best_recall = [], None, -1.0
        learned: dict[tuple, FittedSource] = {}
        for settings in kind.settings(past):
            one = _fitted(settings, sample, learned)
            recall = _recall(one, few, recall_at)
            trials.append(settings_of(one) | {"recall": recall})
            if recall > best_recall:
                best, best_recall = one, recall
        if best is None:
            continue
        fitted.append(best if sample is past else best.fit(past))
        reports[kind.name] = SourceReport(settings_of(best), trials, best_recall)
    stage = stage_of(config, index, past, fitted)
    proposals, failed = stage.propose(asked.users, depth=0)
    if failed:
        raise RuntimeError(f"the candidate sources {failed} failed on the validation users; the log says why")
    weights = fitted_weights(proposals, asked.relevant)
    reserved = stage.names.index(NewItems.name) if NewItems.name in stage.names else None
    merge = Merge(weights, reserved, config.new_item_share)
    for name, one in zip(stage.names, proposals, strict=True):
        if name not in reports:
            reports[name] = SourceReport({}, [], _recall_of(one.row_BK, asked, recall_at))
    merged = merge(side_by_side(proposals), recall_at)
    reports["merged"] = SourceReport({}, [], _recall_of(merged.row_BK, asked, recall_at))
    return replace(stage, merge=merge), reports


def refit(stage: CandidateStage, past: Past) -> list[FittedSource]:
    """The fitted sources of a stage with their settings, learned anew from a later past."""
    return [type(one)(**settings_of(one)).fit(past) for one in stage.sources if isinstance(one, FITTED)]


def stage_of(config: SourcesConfig, index: ItemIndex, past: Past, fitted: Sequence[FittedSource]) -> CandidateStage:
    """All sources that have a quota, those that search the index first, with equal weights."""
    searched = [source for name, source in searching(index, past.num_events).items() if getattr(config, name)]
    sources = (*searched, *fitted)
    quotas = tuple(getattr(config, source.name) for source in sources)
    return CandidateStage(sources, quotas, Merge((1.0,) * len(sources)))


def _fitted(settings: FittedSource, past: Past, learned: dict[tuple, FittedSource]) -> FittedSource:
    """A source fitted with its settings; what one learned whose scoring alone differs is in `learned`, which grows."""
    key = tuple(pair for pair in settings_of(settings).items() if pair[0] not in settings.scoring)
    if key not in learned:
        learned[key] = settings.fit(past)
    return replace(learned[key], **{name: getattr(settings, name) for name in settings.scoring})


def _recall(source: FittedSource, asked: Asked, recall_at: int) -> float:
    return _recall_of(source.propose(asked.users, recall_at).row_BK, asked, recall_at)


def _recall_of(row_BK: np.ndarray, asked: Asked, recall_at: int) -> float:
    if not len(row_BK):
        return 0.0
    missing = max(0, recall_at - row_BK.shape[1])
    padded_BK = np.pad(row_BK, ((0, 0), (0, missing)), constant_values=-1)
    return float(np.nan_to_num(np.nanmean(recall_at_k(padded_BK, asked.relevant, recall_at))))
