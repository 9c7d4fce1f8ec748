"""The training loop: epochs of steps, each epoch validated, early stopping, checkpoints."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import Protocol

import torch

from features.batches import Batch
from features.checkpoint import Checkpoint, Progress, below, under
from features.errors import CascadeError
from ranking.training.learning_curve import LearningCurve
from ranking.training.trained_weights import TrainedWeights

OnEpoch = Callable[[int, dict[str, float]], None]
"""Gets the number of finished epochs and what the last one reached; what it raises ends the training."""


class DivergedError(CascadeError, ArithmeticError):
    """Training ran away: the loss is no number any more."""


class EpochBatches(Protocol):
    """What `Training` asks of its batches."""

    num_rows: int

    def epoch(self, number: int) -> Iterator[Batch]:
        """All rows once; the same for the same number on every call."""
        ...


class Training:
    """One training, from its first step or from where its checkpoint stands.

    Args:
        name: before messages.
        section: of the configuration that holds the learning rates.
        loss: of a batch: what to descend, the mean loss of its rows, and the number of its rows.
        validate: measures the model as it is; must have the curve's measure.
        start: called after the untrained model was validated, before the first step.
        max_epochs: at most; `patience` epochs without a better measure end it earlier.
        checkpoint: None for none.
        key: what the checkpoint must belong to.
        on_epoch: is told every validated epoch, also the untrained model as epoch 0.
    """

    def __init__(
        self,
        name: str,
        section: str,
        weights: TrainedWeights,
        batches: EpochBatches,
        loss: Callable[[Batch], tuple[torch.Tensor, torch.Tensor, int]],
        validate: Callable[[], dict[str, float]],
        start: Callable[[], None],
        measure: str,
        max_epochs: int,
        patience: int,
        checkpoint: Checkpoint | None = None,
        key: str = "",
        on_epoch: OnEpoch = lambda epoch, reached: None,
    ) -> None:
        self._name, self._section = name, section
        self._weights, self._batches = weights, batches
        self._loss, self._validate, self._start, self._on_epoch = loss, validate, start, on_epoch
        self._max_epochs, self._patience = max_epochs, patience
        self._checkpoint, self._key = checkpoint, key
        self._step = 0
        self._loss_sum, self._rows, self._seconds = 0.0, 0, 0.0  # of the epoch that runs
        self.curve = LearningCurve(measure)
        self.best: dict[str, torch.Tensor] = {}
        """Weights and optimizer state after the best epoch, named as `TrainedWeights.state_dict` does."""

    def run(self) -> LearningCurve:
        """Train until it stops improving, and leave the model in eval mode as it was best.

        Raises: DivergedError.
        """
        random_state = self._resume()
        if not self.curve.epochs:
            self._measure({})
            self._start()
        while len(self.curve.epochs) <= self._max_epochs and not self.curve.has_stopped_falling(self._patience):
            self._epoch(random_state)
            random_state = None
        self._weights.load_state_dict(self.best)
        self._weights.model.train(False)
        return self.curve

    def _epoch(self, random_state: torch.Tensor | None) -> None:
        batches = self._batches.epoch(len(self.curve.epochs) - 1)
        for _ in range(self._step):
            next(batches)
        if random_state is not None:
            torch.set_rng_state(random_state)
        begun = time.monotonic() - self._seconds
        self._weights.model.train()
        for batch in batches:
            self._descend(batch)
            if self._checkpoint and self._checkpoint.is_due:
                self._seconds = time.monotonic() - begun
                self._save(self._checkpoint)
        self._seconds = time.monotonic() - begun
        rates = self._weights.learning_rates(self._weights.num_steps - 1)
        reached = {"train_log_loss": self._loss_sum / self._rows} | rates
        self._measure(reached | {"seconds": self._seconds, "rows_per_second": self._rows / self._seconds})
        self._step, self._loss_sum, self._rows, self._seconds = 0, 0.0, 0, 0.0
        if self._checkpoint:
            self._save(self._checkpoint)

    def _descend(self, batch: Batch) -> None:
        self._weights.begin_step()
        descended, mean_loss, num_rows = self._loss(batch)
        value = mean_loss.item()
        if not math.isfinite(value):
            raise self._diverged(f"step {self._step + 1} of epoch {len(self.curve.epochs)} has the loss {value}")
        self._weights.step(descended)
        self._step += 1
        self._loss_sum += value * num_rows
        self._rows += num_rows

    def _measure(self, reached: dict[str, float]) -> None:
        """Validate the model, and keep it if it is the best so far."""
        epoch = len(self.curve.epochs)
        reached = reached | self._validate()
        self.curve.epochs.append(reached)
        if not all(map(math.isfinite, reached.values())):
            raise self._diverged(f"epoch {epoch} ended with {reached}")
        if self.curve.best_epoch == epoch:
            self.best = {name: value.detach().clone() for name, value in self._weights.state_dict().items()}
        self._on_epoch(epoch, reached)

    def _diverged(self, what: str) -> DivergedError:
        rates = self._weights.learning_rates(self._weights.num_steps)
        now = ", ".join(f"{name} {value:.3g}" for name, value in rates.items())
        return DivergedError(
            f"{self._name}: {what}, needed finite numbers; lower {self._section}.learning_rate or "
            f"{self._section}.table_learning_rate (now {now}), or set {self._section}.clip_norm or warmup_epochs"
        )

    def _save(self, checkpoint: Checkpoint) -> None:
        tensors = under("weights", self._weights.state_dict()) | under("best", self.best)
        tensors["random"] = torch.get_rng_state()
        tensors["running"] = torch.tensor([self._loss_sum, self._rows, self._seconds], dtype=torch.float64)
        checkpoint.save(self._key, Progress(len(self.curve.epochs) - 1, self._step, self.curve.epochs), tensors)

    def _resume(self) -> torch.Tensor | None:
        """Take up the checkpoint, if there is one; the random state in it.

        NumPy's needs no keeping: every epoch's batches are shuffled from a seed of their own.
        """
        saved = self._checkpoint.load(self._key) if self._checkpoint else None
        if saved is None:
            return None
        progress, tensors = saved
        self._weights.load_state_dict(below("weights", tensors))
        self.best, self.curve.epochs, self._step = below("best", tensors), progress.curve, progress.step
        loss_sum, rows, self._seconds = tensors["running"].tolist()
        self._loss_sum, self._rows = loss_sum, int(rows)
        return tensors["random"]
