"""What each epoch of a training reached."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

_CLOCK = "rows_per_second"


@dataclass
class LearningCurve:
    """What each epoch reached: loss, learning rates, temperature, rows_per_second; recall where it was validated."""

    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of epochs, from 1, after which the validation recall was highest."""
        return 1 + int(np.argmax([epoch["recall"] for epoch in self.epochs]))

    def has_stopped_growing(self, patience: int) -> bool:
        return bool(self.epochs) and len(self.epochs) - self.best_epoch >= patience

    def write(self, path: Path) -> None:
        """As JSON: a list with an object an epoch; `kept` stands at the one whose weights were kept.

        The clock is left out: equal trainings give an equal file.
        """
        rows = [
            {"epoch": number} | {name: value for name, value in epoch.items() if name != _CLOCK}
            for number, epoch in enumerate(self.epochs, 1)
        ]
        path.write_text(json.dumps([row | {"kept": row["epoch"] == self.best_epoch} for row in rows], indent=2) + "\n")
