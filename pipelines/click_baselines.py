"""What a click model is measured against, fitted on the train part: its click rate, and a tuned logistic regression."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from merlin.schema import Schema

from ranking.clicks.batches import ClickBatches
from ranking.clicks.logistic import ClickLogistic
from ranking.clicks.train import predicted, train
from ranking.config import ClickConfig

L2 = (0.1, 1.0, 10.0, 100.0)
"""Strengths of the penalty that are tried, with MIDDLE_RATE."""
MIDDLE_RATE, OTHER_RATES = 0.03, (0.01, 0.1)
"""Step sizes; the others are tried with the best penalty."""
MAX_EPOCHS = 20


@dataclass(frozen=True, eq=False)
class ClickBaseline:
    """A fitted baseline."""

    probability_N: np.ndarray
    """[N] of the test part."""
    settings: dict[str, float]
    """What was chosen, and how good it was on the valid part."""
    trials: Sequence[dict[str, float]] = ()
    """All that was tried."""
    seconds: float = 0.0


def mean_click_rate(fitted: ClickBatches, test: ClickBatches) -> ClickBaseline:
    """The train part's click rate for every impression."""
    rate = fitted.statistics.click_rate
    return ClickBaseline(np.full(test.num_rows, rate), {"click_rate": rate})


def logistic_regression(
    schema: Schema, config: ClickConfig, fitted: ClickBatches, held_out: ClickBatches, test: ClickBatches, seed: int
) -> ClickBaseline:
    """A logistic regression with the penalty and the step size that are best on the valid part.

    Args:
        config: patience applies.
    Raises: DivergedError.
    """
    begun = time.monotonic()

    def tried(rate: float, l2: float) -> tuple[dict[str, float], ClickLogistic]:
        model = ClickLogistic(schema, fitted.statistics, l2)
        torch.manual_seed(seed)
        steps = {"learning_rate": rate, "table_learning_rate": rate, "weight_decay": 0.0, "max_epochs": MAX_EPOCHS}
        curve = train(model, fitted, held_out, replace(config, **steps), f"logistic regression, l2 {l2:g}")
        reached = {name: curve.best[name] for name in ("valid_log_loss", "valid_auc")}
        return {"learning_rate": rate, "l2": l2, "best_epoch": curve.best_epoch} | reached, model

    trials = [tried(MIDDLE_RATE, l2) for l2 in L2]
    l2 = min(trials, key=_loss)[0]["l2"]
    trials += [tried(rate, l2) for rate in OTHER_RATES]
    settings, model = min(trials, key=_loss)
    probability_N, _ = predicted(model, test)
    return ClickBaseline(probability_N, settings, [trial for trial, _ in trials], round(time.monotonic() - begun, 3))


def _loss(trial: tuple[dict[str, float], ClickLogistic]) -> float:
    return trial[0]["valid_log_loss"]
