"""All baselines on one split: tuned on train -> validation, refitted on both, asked for the test users."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.baselines.baseline import Baseline, ColdBaseline
from pipelines.baselines.bpr import Bpr
from pipelines.baselines.content_knn import ContentKnn
from pipelines.baselines.covisitation import Covisitation
from pipelines.baselines.ease import Ease
from pipelines.baselines.events import Events
from pipelines.baselines.ials import Ials
from pipelines.baselines.popularity import Popularity
from pipelines.baselines.popularity_by_category import PopularityByCategory
from pipelines.baselines.recent_popularity import RecentPopularity
from pipelines.baselines.repeat_purchase import RepeatPurchase
from pipelines.baselines.tuning import COLD, STAGES, HeldOut, settings_of, tuned

BASELINES: tuple[type[Baseline], ...] = (
    Popularity,
    RecentPopularity,
    RepeatPurchase,
    PopularityByCategory,
    ContentKnn,
    Covisitation,
    Ials,
    Ease,
    Bpr,
)
"""One line a baseline; the order of the report."""

_RANKINGS = (*STAGES, COLD)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class BaselineResult:
    """What one baseline recommends the test users, and how it was tuned."""

    name: str
    skipped: str
    """Why it did not run; empty if it did. Then the rankings are empty too."""
    slate_BK: np.ndarray
    """[B, slate_k] item rows of the setting with the best validation NDCG."""
    candidates_BK: np.ndarray
    """[B, candidate_k] item rows of the setting with the best validation recall."""
    cold_BK: np.ndarray
    """[B, candidate_k] items that nobody had before, of the setting with the best validation recall of such items;
    empty for a baseline that cannot tell them apart."""
    settings: dict[str, dict[str, Any]]
    """By stage, the settings chosen."""
    trials: list[dict[str, Any]]
    """Everything tried on validation: settings, ndcg, recall, seconds."""
    seconds: float


def run_baselines(
    train: Events,
    valid: Events,
    test_user_rows: np.ndarray,
    *,
    slate_k: int,
    candidate_k: int,
    drop_seen: bool,
    max_tuning_users: int,
    seed: int,
) -> list[BaselineResult]:
    """Tune, refit and ask every baseline.

    Args:
        train: events before the validation period.
        valid: events of the validation period; together with `train` they are all that is known at test time.
        test_user_rows: [B] user rows to recommend for.
        slate_k: length of a slate, at most candidate_k.
        candidate_k: number of candidates.
        drop_seen: whether items a user had must not come back.
        max_tuning_users: validation users that judge a setting, a sample; 0 for all.
        seed: of that sample.
    Raises: ValueError if no validation user has a relevant item.
    """
    known = train.followed_by(valid)
    held_out = HeldOut.after(train, valid, drop_seen=drop_seen, max_users=max_tuning_users, seed=seed)
    if not len(held_out.user_rows):
        raise ValueError(
            f"{len(valid)} validation events leave no user with a relevant item (drop_seen={drop_seen}), so no "
            "baseline can be tuned: raise etl.split.valid_share"
        )
    windows = tuned(
        RecentPopularity,
        train,
        held_out,
        slate_k=slate_k,
        candidate_k=candidate_k,
        drop_seen=drop_seen,
        fill_days=dict.fromkeys(STAGES, 0.0),
    )
    fill_days = {stage: settings_of(windows.best[stage])["window_days"] for stage in STAGES}

    def result(kind: type[Baseline]) -> BaselineResult:
        begun = time.monotonic()
        empty = np.zeros((0, 0), np.int64)
        skipped = kind.unavailable(known, drop_seen)
        if skipped:
            return BaselineResult(kind.name, skipped, empty, empty, empty, {}, [], 0.0)
        _log.info("baseline %s: tuning", kind.name)
        found = tuned(
            kind,
            train,
            held_out,
            slate_k=slate_k,
            candidate_k=candidate_k,
            drop_seen=drop_seen,
            fill_days=fill_days,
        )
        slate_BK = found.best["slate"].fit(known).recommend(test_user_rows, known, slate_k, drop_seen)
        candidates_BK = found.best["candidates"].fit(known).recommend(test_user_rows, known, candidate_k, drop_seen)
        cold = found.best[COLD].fit(known) if COLD in found.best else None
        cold_BK = cold.recommend_cold(test_user_rows, known, candidate_k) if isinstance(cold, ColdBaseline) else empty
        seconds = time.monotonic() - begun
        settings = {stage: settings_of(one) for stage, one in found.best.items()}
        trials = [trial.as_dict() for trial in found.trials]
        _log.info("baseline %s: %d settings tried, %.1f s", kind.name, len(trials), seconds)
        return BaselineResult(kind.name, "", slate_BK, candidates_BK, cold_BK, settings, trials, round(seconds, 3))

    return [result(kind) for kind in BASELINES]


def cached_baselines(
    path: Path, inputs: dict[str, Any], compute: Callable[[], list[BaselineResult]]
) -> list[BaselineResult]:
    """Results from `path` if they were made from the same inputs by the same code, else computed and written there.

    Args:
        path: a Parquet file: one row with each baseline's rankings, the rest in its metadata.
        inputs: whatever the results depend on, as JSON values. This package's sources, and the versions of `implicit`,
            numpy and scipy, are added.
        compute: gives the results.
    """
    key = _cache_key(inputs)
    if path.is_file():
        metadata = pq.read_schema(path).metadata or {}
        if metadata.get(b"key") == key.encode():
            _log.info("baselines: unchanged, read from %s", path)
            return _read(path)
    results = compute()
    _write(path, key, results)
    return results


def _cache_key(inputs: dict[str, Any]) -> str:
    digest = hashlib.sha256(json.dumps(inputs, sort_keys=True).encode())
    for package in ("implicit", "numpy", "scipy"):
        digest.update(f"{package} {_version(package)}\n".encode())
    for source in sorted(Path(__file__).parent.glob("*.py")):
        digest.update(source.read_bytes())
    return digest.hexdigest()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def _write(path: Path, key: str, results: Sequence[BaselineResult]) -> None:
    rest = [
        {"skipped": one.skipped, "settings": one.settings, "trials": one.trials, "seconds": one.seconds}
        for one in results
    ]
    table = pa.table(
        {
            "name": [one.name for one in results],
            **{stage: pa.array([_flat(one, stage) for one in results], pa.list_(pa.int64())) for stage in _RANKINGS},
            **{f"{stage}_width": [getattr(one, f"{stage}_BK").shape[1] for one in results] for stage in _RANKINGS},
        }
    ).replace_schema_metadata({"key": key, "rest": json.dumps(rest)})
    writing = path.with_name(f".{path.name}.writing")
    pq.write_table(table, writing, compression="zstd")
    os.replace(writing, path)


def _read(path: Path) -> list[BaselineResult]:
    table = pq.read_table(path)
    rest = json.loads(table.schema.metadata[b"rest"])

    def ranking(place: int, stage: str) -> np.ndarray:
        width = table[f"{stage}_width"][place].as_py()
        return table[stage][place].values.to_numpy().reshape(-1, width) if width else np.zeros((0, 0), np.int64)

    return [
        BaselineResult(name, **{f"{stage}_BK": ranking(place, stage) for stage in _RANKINGS}, **rest[place])
        for place, name in enumerate(table["name"].to_pylist())
    ]


def _flat(result: BaselineResult, stage: str) -> np.ndarray:
    return getattr(result, f"{stage}_BK").ravel()
