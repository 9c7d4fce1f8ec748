"""Trace: what one run of the request path did on the way to its reply."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np


@dataclass(eq=False)
class Trace:
    """Given to a run, filled while it goes on, and read by the request log, the metrics and the benchmarks."""

    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Seconds that each operator took, by the name of its class, in the order in which they ran."""
    stage: str = ""
    """The operator that runs or ran last: after an error the one that raised it. Empty before the first."""
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    """Every column the operators made, [B, ...]; empty if the run did not come to its end."""
