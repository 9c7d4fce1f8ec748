"""Counts on the scale of the models, for those who cannot afford a workflow and its imports."""

from __future__ import annotations

import numpy as np


def normalized_log(count: np.ndarray, mean: float, deviation: float) -> np.ndarray:
    """What `LogNormalize` makes of a count, for the request path; a test holds it to the workflow."""
    logged = np.log(count.astype(np.float32) + 1)
    return ((logged - mean) / deviation if deviation > 0 else logged - mean).astype(np.float32)
