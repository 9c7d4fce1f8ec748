"""A logistic regression over the numbers and the category ids."""

from __future__ import annotations

from merlin.schema import Schema

from pipelines.click_baselines.baseline import ClickBaseline
from pipelines.click_baselines.trained import TrainedBaseline
from ranking.clicks.batches import ClickBatches
from ranking.clicks.logistic import ClickLogistic
from ranking.config import RankingConfig

L2 = (0.1, 1.0, 10.0, 100.0)
"""Strengths of the penalty that are tried, with MIDDLE_RATE."""
MIDDLE_RATE, OTHER_RATES = 0.03, (0.01, 0.1)
"""Step sizes; the others are tried with the best penalty."""


def logistic_regression(
    schema: Schema, config: RankingConfig, fitted: ClickBatches, held_out: ClickBatches, test: ClickBatches, seed: int
) -> ClickBaseline:
    """A logistic regression with the penalty and the step size that are best on the valid part.

    Args:
        config: clicks.patience applies.
    Raises: DivergedError.
    """
    search = TrainedBaseline(
        lambda setting: ClickLogistic(schema, fitted.statistics, float(setting["l2"])),
        config.clicks,
        fitted,
        held_out,
        seed,
        "logistic regression",
    )
    search.attempt([{"learning_rate": MIDDLE_RATE, "l2": l2} for l2 in L2])
    l2 = search.best["l2"]
    search.attempt([{"learning_rate": rate, "l2": l2} for rate in OTHER_RATES])
    return search.result(test)
