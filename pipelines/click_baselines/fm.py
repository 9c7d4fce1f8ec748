"""A factorization machine: the smallest model that knows products of features."""

from __future__ import annotations

from dataclasses import replace

from merlin.schema import Schema

from pipelines.click_baselines.baseline import ClickBaseline, Setting
from pipelines.click_baselines.trained import TrainedBaseline
from ranking.clicks.batches import ClickBatches
from ranking.clicks.ranker import ClickRanker
from ranking.config import RankingConfig

L2 = (1.0, 10.0, 100.0)
"""Strengths of the penalty that are tried, with MIDDLE_RATE and MIDDLE_DIM."""
MIDDLE_RATE, OTHER_RATES = 0.02, (0.005, 0.05)
"""Step sizes; the others are tried with the best penalty."""
MIDDLE_DIM, OTHER_DIMS = 16, (8, 32)
"""Widths of the vectors; the others are tried with the best of both."""


def factorization_machine(
    schema: Schema, config: RankingConfig, fitted: ClickBatches, held_out: ClickBatches, test: ClickBatches, seed: int
) -> ClickBaseline:
    """A factorization machine with the penalty, step size and width that are best on the valid part.

    Args:
        config: clicks.patience applies.
    Raises: DivergedError.
    Source: Rendle, "Factorization machines", ICDM 2010; tuned because untuned it is no baseline.
    """

    def made(setting: Setting) -> ClickRanker:
        network = replace(config.network, model="fm", embedding_dim=int(setting["embedding_dim"]), dropout=0.0)
        return ClickRanker(schema, network, fitted.statistics, float(setting["l2"]))

    search = TrainedBaseline(made, config.clicks, fitted, held_out, seed, "factorization machine")
    search.attempt([{"learning_rate": MIDDLE_RATE, "l2": l2, "embedding_dim": MIDDLE_DIM} for l2 in L2])
    l2 = search.best["l2"]
    search.attempt([{"learning_rate": rate, "l2": l2, "embedding_dim": MIDDLE_DIM} for rate in OTHER_RATES])
    rate = search.best["learning_rate"]
    search.attempt([{"learning_rate": rate, "l2": l2, "embedding_dim": dim} for dim in OTHER_DIMS])
    return search.result(test)
