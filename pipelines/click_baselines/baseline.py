"""What every baseline of a click model returns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

Setting = Mapping[str, float | str]


@dataclass(frozen=True, eq=False)
class ClickBaseline:
    """A fitted baseline, or why there is none."""

    probability_N: np.ndarray
    """[N] of the test part, in file order; [0] if it was skipped."""
    settings: Setting
    """What was chosen, and how good it was on the valid part."""
    trials: Sequence[Setting] = ()
    """All that was tried, in order."""
    seconds: float = 0.0
    """All trials together."""
    skipped: str = ""
    """Why it did not run."""


def skipped(reason: str) -> ClickBaseline:
    """A baseline that cannot run here."""
    return ClickBaseline(np.empty(0), {}, skipped=reason)
