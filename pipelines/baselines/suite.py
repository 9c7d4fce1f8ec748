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

from pipelines.baselines.baseline import Baseline
from pipelines.baselines.covisitation import Covisitation
from pipelines.baselines.ease import Ease
from pipelines.baselines.events import Events
from pipelines.baselines.ials import Ials
from pipelines.baselines.popularity import Popularity
from pipelines.baselines.recent_popularity import RecentPopularity
from pipelines.baselines.repeat_purchase import RepeatPurchase
from pipelines.baselines.tuning import STAGES, HeldOut, settings_of, tuned

BASELINES: tuple[type[Baseline], ...] = (Popularity, RecentPopularity, RepeatPurchase, Covisitation, Ials, Ease)
"""One line a baseline; the order of the report."""

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
    known = _joined(train, valid)
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
    results = []
    for kind in BASELINES:
        begun = time.monotonic()
        skipped = kind.unavailable(known, drop_seen)
        if skipped:
            empty = np.zeros((0, 0), np.int64)
            results.append(BaselineResult(kind.name, skipped, empty, empty, {}, [], 0.0))
            continue
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
        seconds = time.monotonic() - begun
        settings = {stage: settings_of(found.best[stage]) for stage in STAGES}
        trials = [trial.as_dict() for trial in found.trials]
        results.append(BaselineResult(kind.name, "", slate_BK, candidates_BK, settings, trials, round(seconds, 3)))
        _log.info("baseline %s: %d settings tried, %.1f s", kind.name, len(trials), seconds)
    return results


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


def _joined(earlier: Events, later: Events) -> Events:
    return Events(
        np.concatenate([earlier.user_row, later.user_row]),
        np.concatenate([earlier.item_row, later.item_row]),
        np.concatenate([earlier.timestamp, later.timestamp]),
        earlier.num_users,
        earlier.num_items,
    )


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
            **{stage: pa.array([_flat(one, stage) for one in results], pa.list_(pa.int64())) for stage in STAGES},
            **{f"{stage}_width": [getattr(one, f"{stage}_BK").shape[1] for one in results] for stage in STAGES},
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
        BaselineResult(
            name, slate_BK=ranking(place, "slate"), candidates_BK=ranking(place, "candidates"), **rest[place]
        )
        for place, name in enumerate(table["name"].to_pylist())
    ]


def _flat(result: BaselineResult, stage: str) -> np.ndarray:
    return getattr(result, f"{stage}_BK").ravel()
