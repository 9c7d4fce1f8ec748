"""The click rate, for every impression the same."""

from __future__ import annotations

import numpy as np

from pipelines.click_baselines.baseline import ClickBaseline
from ranking.clicks.batches import ClickBatches


def mean_click_rate(fitted: ClickBatches, test: ClickBatches) -> ClickBaseline:
    """The train part's click rate for every impression."""
    rate = fitted.statistics.click_rate
    return ClickBaseline(np.full(test.num_rows, rate), {"click_rate": rate})
