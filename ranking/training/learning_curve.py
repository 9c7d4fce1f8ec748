"""What a training reached after each of its epochs, which of them was best, and whether to go on."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

CLOCK = ("seconds", "rows_per_second")
"""What differs between equal trainings."""


@dataclass
class LearningCurve:
    """What was measured before the first epoch and after each.

    Args:
        measure: what is best where it is lowest.
    """

    measure: str
    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of epochs after which the measure was lowest; the earliest of equal ones."""
        return int(np.argmin([epoch[self.measure] for epoch in self.epochs]))

    @property
    def best(self) -> dict[str, float]:
        return self.epochs[self.best_epoch]

    @property
    def rows_per_second(self) -> float:
        """Over all epochs, validation left out; nan before the first."""
        trained = self.epochs[1:]
        seconds = sum(epoch["seconds"] for epoch in trained)
        return sum(epoch["seconds"] * epoch["rows_per_second"] for epoch in trained) / seconds if seconds else np.nan

    def has_stopped_falling(self, patience: int) -> bool:
        """Whether the last `patience` epochs brought nothing better."""
        return bool(self.epochs) and len(self.epochs) - 1 - self.best_epoch >= patience

    def write(self, path: Path) -> None:
        """As JSON: a list with an object an epoch, 0 for before the first; `kept` stands at the one that was kept."""
        best = self.best_epoch
        rows = [{"epoch": number} | epoch | {"kept": number == best} for number, epoch in enumerate(self.epochs)]
        path.write_text(json.dumps(rows, indent=2) + "\n")
