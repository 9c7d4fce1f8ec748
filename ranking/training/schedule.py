"""Learning rates over a training: a linear warm-up, then constant or falling.

Source: Goyal et al., "Accurate, large minibatch SGD", 2017, section 2.2 (warm-up); Loshchilov & Hutter, "SGDR", ICLR
2017, equation 5 (cosine).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class RateSchedule:
    """Which share of its learning rate a step takes; the same for tables and dense weights.

    With w warm-up steps of T and the final share f, step s = 0, 1, ... takes

        (s + 1) / (w + 1)                         for s < w
        1                                         from then on, if constant
        f + (1 - f) (1 - p)                       linear, with p = min(1, (s - w) / (T - w))
        f + (1 - f) (1 + cos(pi p)) / 2           cosine
    """

    num_steps: int
    """T, of the longest training: one that stops early has fallen less."""
    warmup_steps: int = 0
    decay: Literal["constant", "linear", "cosine"] = "constant"
    final_share: float = 0.0

    def share(self, step: int) -> float:
        """In [0, 1]; step 0 is the first."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.decay == "constant":
            return 1.0
        passed = min(1.0, (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps))
        left = 1 - passed if self.decay == "linear" else (1 + math.cos(math.pi * passed)) / 2
        return self.final_share + (1 - self.final_share) * left
