"""`cascade tune ranking`: the ranker's settings that do best on what it was not trained on.

Impression logs: every trial trains on the train part and is judged by the log loss of the valid part. Interaction logs:
it trains on the lists of some users and is judged by the NDCG of the others' lists. The test part is never read.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact
from features.batches import Batches, FeatureTables
from features.search_space import with_values
from pipelines.config import CascadeConfig
from pipelines.tune import Budget, Fit, OnEpoch, TuneError
from pipelines.tune_stage import TunedStage, check_can_tune, tune_stage
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import train as train_clicks
from ranking.examples import source_names, write_examples
from ranking.losses import CUT_OFF
from ranking.search_space import CLICK_SPACE, LIST_SPACE
from ranking.train import train as train_lists

_LISTS_AT_ONCE = 1_024


def tune_clicks(config: CascadeConfig, etl: Artifact, out: Path, budget: Budget, say: Callable[[str], None]) -> None:
    """As `tune_stage`, for impression logs.

    Args:
        etl: the run's features.
    """
    check_can_tune((etl,), config, budget)
    stage = TunedStage("ranking", CLICK_SPACE, (etl,), "log loss", "minimize")
    tune_stage(stage, valid_log_loss(config, etl), config, out, budget, say)


def tune_lists(
    config: CascadeConfig, etl: Artifact, retrieval: Artifact, out: Path, budget: Budget, say: Callable[[str], None]
) -> None:
    """As `tune_stage`, for interaction logs.

    Args:
        etl: the run's features.
        retrieval: made from them; its proposals are the candidates.
    """
    check_can_tune((etl, retrieval), config, budget)
    stage = TunedStage("ranking", LIST_SPACE, (etl, retrieval), f"NDCG@{CUT_OFF}", "maximize")
    with TemporaryDirectory(prefix="cascade-tune-") as folder:
        fit = held_out_ndcg(config, etl, retrieval, Path(folder))
        tune_stage(stage, fit, config, out, budget, say)


def valid_log_loss(config: CascadeConfig, etl: Artifact) -> Fit:
    """Trains with given settings and returns the valid part's log loss of the best epoch."""
    torch.set_num_threads(config.ranking.num_threads)
    schema = click_schema(etl)

    @cache  # a part's values are looked at once
    def batches(part: str, batch_size: int) -> ClickBatches:
        return ClickBatches(etl.files(f"examples/{part}/"), schema, batch_size, config.seed)

    def fit(values: Mapping[str, Any], on_epoch: OnEpoch) -> float:
        settings = with_values(config.ranking, values)
        fitted, held_out = (batches(part, settings.clicks.batch_size) for part in ("train", "valid"))
        torch.manual_seed(config.seed)
        model = ClickRanker(schema, settings.network, fitted.statistics, settings.clicks.l2)

        def watch(epoch: int, reached: dict[str, float]) -> None:
            if epoch:
                on_epoch(epoch, reached["valid_log_loss"])

        curve = train_clicks(model, fitted, held_out, settings.clicks, "tune", on_epoch=watch)
        return curve.best["valid_log_loss"]

    return fit


def held_out_ndcg(config: CascadeConfig, etl: Artifact, retrieval: Artifact, folder: Path) -> Fit:
    """Trains with given settings on the lists of some users and returns the others' NDCG after the best epoch.

    That is the one of the lowest loss, as in the stage; but the settings change which loss it is, so the losses
    themselves cannot be compared. The stage holds every user out once; a trial one share of them, always the same, in a
    fraction of the time.

    Args:
        folder: for the examples, which every trial reads.
    Raises: TuneError if nobody, or everybody, is held out.
    """
    settings = config.ranking
    torch.set_num_threads(settings.num_threads)
    tables, sources = FeatureTables(etl), source_names(retrieval)
    lists = write_examples(settings.negatives, etl, retrieval, config.seed, folder / "all.parquet")
    user = lists["user_row"].to_numpy()
    users = np.random.default_rng(config.seed).permutation(np.unique(user))
    is_held_out = np.isin(user, users[: round(settings.held_out_share * len(users))])
    if not is_held_out.any() or is_held_out.all():
        raise TuneError(
            f"{etl.path}: {is_held_out.sum()} of {len(lists)} lists are of held-out users, needed some and not all to "
            "measure on; give more interactions, or another ranking.held_out_share"
        )
    pq.write_table(lists.filter(pa.array(~is_held_out)), folder / "fitted.parquet")
    pq.write_table(lists.filter(pa.array(is_held_out)), folder / "held_out.parquet")
    held_out = Batches([folder / "held_out.parquet"], tables, _LISTS_AT_ONCE, config.seed)

    def fit(values: Mapping[str, Any], on_epoch: OnEpoch) -> float:
        changed = with_values(settings, values)
        fitted = Batches([folder / "fitted.parquet"], tables, changed.batch_size, config.seed)
        _, curve = train_lists(changed, tables, sources, fitted, config.seed, changed.max_epochs, held_out)
        best = min(curve, key=lambda epoch: epoch["loss"])[f"ndcg@{CUT_OFF}"]
        on_epoch(len(curve) - 1, best)
        return best

    return fit
