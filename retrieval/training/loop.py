"""The training loop: epochs of steps, their average validated, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from statistics import fmean

import torch
from tqdm import tqdm

from features.batches import Batch, Batches
from features.checkpoint import Checkpoint, Progress
from retrieval.config import RetrievalConfig
from retrieval.errors import DivergedError
from retrieval.training.learning_curve import LearningCurve
from retrieval.training.step_loss import StepLoss
from retrieval.training.trained_weights import TrainedWeights
from retrieval.two_tower import TwoTower
from retrieval.validation import Validation

_STEPS_SHOWN = 50
"""Steps between two changes of the progress bar, and over which its loss is a mean."""


class Training:
    """One training, from its first step or from where its checkpoint stands.

    Args:
        validation: stops it when the recall stops growing; None trains all epochs.
        num_epochs: at most.
        checkpoint: None for none.
        key: what the checkpoint must belong to.
    """

    def __init__(
        self,
        config: RetrievalConfig,
        batches: Batches,
        loss: StepLoss,
        weights: TrainedWeights,
        validation: Validation | None,
        num_epochs: int,
        checkpoint: Checkpoint | None,
        key: str,
    ) -> None:
        self.batches, self._config, self._loss, self._weights = batches, config, loss, weights
        self._validation, self._num_epochs = validation, num_epochs
        self._checkpoint, self._key = checkpoint, key
        self._epoch = 0
        self._losses: list[float] = []
        self._best: dict[str, torch.Tensor] = {}
        self.curve = LearningCurve()

    def run(self) -> TwoTower:
        """The averaged model in eval mode: of the best epoch, or of the last where nothing is validated.

        Raises: DivergedError.
        """
        resumed = self._resume()
        with tqdm(desc="retrieval", unit=" rows", disable=None, leave=False) as bar:
            while not self._is_over:
                begun, num_rows = time.monotonic(), 0
                for batch in self._steps(resumed):
                    self.step(batch)
                    num_rows += len(batch["item_row"])
                    bar.update(len(batch["item_row"]))
                    if len(self._losses) % _STEPS_SHOWN == 0:
                        self._show(bar, fmean(self._losses[-_STEPS_SHOWN:]))
                    if self._checkpoint and self._checkpoint.is_due:
                        self._save(self._checkpoint)
                self._end_epoch(num_rows / (time.monotonic() - begun), bar)
                resumed = None
        model = self._weights.average.current()
        if self._best:
            model.load_state_dict(self._best)
        return model

    @property
    def _is_over(self) -> bool:
        has_stopped = self._validation is not None and self.curve.has_stopped_growing(self._config.patience)
        return has_stopped or self._epoch >= self._num_epochs

    def _steps(self, random_state: torch.Tensor | None) -> Iterator[Batch]:
        """The epoch's batches from the next step on; `random_state` is that of the checkpoint it goes on from."""
        batches = self.batches.epoch(self._epoch)
        for _ in range(len(self._losses)):
            next(batches)
        if random_state is not None:
            torch.set_rng_state(random_state)
        return batches

    def step(self, batch: Batch) -> float:
        """One step down the loss of a batch, which is returned.

        Raises: DivergedError.
        """
        number = len(self._losses)
        if self._loss.wants_hard and number % self._config.hard_every == 0 and number + self._epoch > 0:
            self._loss.renew_hard(batch)
        loss = self._loss(batch)
        value = float(loss.detach())
        if not math.isfinite(value):
            raise DivergedError(
                f"retrieval: step {number + 1} of epoch {self._epoch + 1} has the loss {value}, needed a finite "
                f"number; lower retrieval.learning-rate ({self._config.learning_rate}) or "
                f"retrieval.table-learning-rate ({self._config.table_learning_rate})"
            )
        self._weights.step(loss)
        self._losses.append(value)
        return value

    def _end_epoch(self, rows_per_second: float, bar: tqdm) -> None:
        model = self._weights.average.current()
        record = {
            "loss": fmean(self._losses),
            "learning_rate": self._config.learning_rate,
            "table_learning_rate": self._config.table_learning_rate,
            "temperature": float(model.temperature),
            "rows_per_second": rows_per_second,
        }
        if self._validation:
            record["recall"] = self._validation.recall(model)
        self.curve.epochs.append(record)
        self._epoch, self._losses = self._epoch + 1, []
        if self._validation and self.curve.best_epoch == self._epoch:
            self._best = {name: value.clone() for name, value in model.state_dict().items()}
        self._show(bar, record["loss"])
        if self._checkpoint:
            self._save(self._checkpoint)

    def _show(self, bar: tqdm, loss: float) -> None:
        shown = {"epoch": f"{len(self.curve.epochs)}", "loss": f"{loss:.4g}"}
        if self._validation and self.curve.epochs:
            shown["recall"] = f"{self.curve.epochs[-1]['recall']:.4g}"
        bar.set_postfix(shown)

    def _save(self, checkpoint: Checkpoint) -> None:
        tensors = {f"weights.{name}": value for name, value in self._weights.state_dict().items()}
        tensors |= {f"best.{name}": value for name, value in self._best.items()}
        tensors |= {
            "losses": torch.tensor(self._losses),
            "random": torch.get_rng_state(),
            "hard": self._loss.scored_items.hard_H,
        }
        checkpoint.save(self._key, Progress(self._epoch, len(self._losses), self.curve.epochs), tensors)

    def _resume(self) -> torch.Tensor | None:
        """Take up the checkpoint, if there is one; the random state in it.

        NumPy's needs no keeping: every epoch's batches are shuffled from a seed of their own.
        """
        saved = self._checkpoint.load(self._key) if self._checkpoint else None
        if saved is None:
            return None
        progress, tensors = saved
        weights, best = (
            {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}
            for prefix in ("weights.", "best.")
        )
        self._weights.load_state_dict(weights)
        self._best, self._losses, self._epoch = best, tensors["losses"].tolist(), progress.epoch
        self.curve = LearningCurve(progress.curve)
        self._loss.scored_items.add_hard(tensors["hard"], self._config.num_hard)
        return tensors["random"]
