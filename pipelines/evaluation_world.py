"""What every evaluation shares: the log as it is split, the test users, item rows of replies, the baselines."""

# B test users  K ranked slots

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.artifact import Artifact, open_artifact
from features.errors import CascadeError
from features.split import TEST, TRAIN, VALID
from pipelines.baselines import BaselineResult, Events, HeldOut, cached_baselines, read_item_content, run_baselines
from pipelines.evaluation_config import EvaluationConfig
from retrieval.metrics import bootstrap_interval


class EvaluationError(CascadeError, ValueError):
    """What is to be measured cannot be measured on this run."""


@dataclass(frozen=True, eq=False)
class World:
    """The etl artifact as an evaluation sees it."""

    etl: Artifact
    train: Events
    valid: Events
    known: Events
    """Train and valid: all that was known before the test period."""
    test: Events
    user_ids: pa.Array
    item_ids: pa.Array

    @classmethod
    def read(cls, etl_dir: Path) -> World:
        """Raises: ArtifactError if the etl artifact is missing or damaged."""
        artifact = open_artifact(etl_dir, "etl")
        user_ids = pq.read_table(artifact.file("users.parquet"), columns=["raw_id"])["raw_id"].combine_chunks()
        item_ids = pq.read_table(artifact.file("items.parquet"), columns=["raw_id"])["raw_id"].combine_chunks()
        table = pq.read_table(artifact.file("events.parquet"), columns=["user_row", "item_row", "timestamp", "split"])
        user_row, item_row, timestamp, split = (table[name].to_numpy() for name in table.column_names)
        events = Events(user_row, item_row, timestamp, len(user_ids), len(item_ids))
        return cls(
            artifact,
            train=events.where(split == TRAIN),
            valid=events.where(split == VALID),
            known=events.where(split != TEST),
            test=events.where(split == TEST),
            user_ids=user_ids,
            item_ids=item_ids,
        )

    def test_users(self, config: EvaluationConfig, drop_seen: bool, seed: int) -> HeldOut:
        """Users with a relevant item in the test period.

        Raises: EvaluationError if there is none.
        """
        users = HeldOut.after(self.known, self.test, drop_seen=drop_seen, max_users=config.max_users, seed=seed)
        if not len(users.user_rows):
            raise EvaluationError(
                f"{self.etl.path}: {len(self.test)} test events leave no user with a relevant item "
                f"(drop_seen={drop_seen}); raise etl.split.test_share or give more interactions"
            )
        return users

    def baselines(
        self, users: HeldOut, config: EvaluationConfig, drop_seen: bool, out: Path, seed: int
    ) -> list[BaselineResult]:
        """Rankings of the tuned baselines for the users, fitted once for an artifact and kept in `out`."""
        sizes = {
            "slate_k": config.slate_k,
            "candidate_k": config.candidate_k,
            "max_tuning_users": config.max_tuning_users,
        }
        etl = {"etl": self.etl.content_hash}
        inputs = etl | {"max_users": config.max_users, "drop_seen": drop_seen, "seed": seed, **sizes}

        def compute() -> list[BaselineResult]:
            train = replace(self.train, content=read_item_content(self.etl))
            return run_baselines(train, self.valid, users.user_rows, drop_seen=drop_seen, seed=seed, **sizes)

        return cached_baselines(out / "baselines.parquet", inputs, compute)

    def raw_ids(self, users: HeldOut) -> list[str]:
        """The users' ids as their log names them."""
        return self.user_ids.take(pa.array(users.user_rows)).to_pylist()

    def protocol(self, users: HeldOut, config: EvaluationConfig, drop_seen: bool) -> dict[str, Any]:
        """What was measured on, for a report."""
        num_warm = int((self.known.history.count[users.user_rows] > 0).sum())
        parts = {"train": self.train, "valid": self.valid, "test": self.test}
        return {
            "etl_content_hash": self.etl.content_hash,
            "drop_seen": drop_seen,
            "config": asdict(config),  # pyright: ignore[reportArgumentType]
            "seconds_utc": {name: [int(part.timestamp[0]), int(part.timestamp[-1])] for name, part in parts.items()},
            "num_events": {name: len(part) for name, part in parts.items()},
            "num_test_users": len(users.user_rows),
            "num_warm_test_users": num_warm,
            "num_cold_test_users": len(users.user_rows) - num_warm,
            "num_users": len(self.user_ids),
            "num_items": len(self.item_ids),
            "num_items_never_seen_before_test": len(self.known.cold_rows),
        }


def item_rows(ids: np.ndarray, width: int, catalogue: pa.Array, what: str) -> np.ndarray:
    """[B, width] item rows of raw ids [B, any], cut or padded with -1 to the width.

    Raises: EvaluationError if `what` names an item outside the catalogue.
    """
    flat = pa.array(np.ravel(ids[:, :width]), catalogue.type)
    found = pc.index_in(flat, value_set=catalogue)
    invented = pc.and_(pc.is_null(found), pc.not_equal(flat, "")).to_numpy(zero_copy_only=False)
    if invented.any():
        raise EvaluationError(
            f"the pipeline's {what} name item {flat[int(invented.argmax())].as_py()!r}, which is not in the catalogue "
            f"of {len(catalogue)} items: it serves another run than the etl artifact given"
        )
    rows = np.full((len(ids), width), -1, np.int64)
    rows[:, : min(width, ids.shape[1])] = pc.fill_null(found, -1).to_numpy().reshape(len(ids), -1)
    return rows


def tuning_report(baselines: list[BaselineResult]) -> dict[str, dict[str, Any]]:
    """How each baseline was tuned, or why it did not run."""
    return {
        one.name: {"skipped": one.skipped, "settings": one.settings, "trials": one.trials, "seconds": one.seconds}
        for one in baselines
    }


def seen_items(ranked_BK: np.ndarray, users: HeldOut) -> int:
    """How many of the slots hold an item that their user already had."""
    user, _, item = users.seen.history.slots(users.user_rows)
    had = np.unique(user * users.seen.num_items + item)
    shown_BK = np.where(ranked_BK >= 0, np.arange(len(ranked_BK))[:, None] * users.seen.num_items + ranked_BK, -1)
    return int(np.isin(shown_BK, had).sum())


def interval(values: np.ndarray, config: EvaluationConfig, seed: int) -> Mapping[str, Any]:
    """Mean of one value a user, with its bootstrap interval, for a report."""
    return asdict(bootstrap_interval(values, config.num_bootstrap, seed=seed, level=config.level))
