"""Stage `ranking` for impressions: trains the click model on the train part and exports it.

Parts: `model.safetensors`, `ranker.onnx`, `learning_curve.json`.

Training stops when the log loss of the valid part stops falling, and the model that was best there is kept. Untrained,
the model says the train part's click rate of every row; where training does not improve on that, it stays untrained.
"""

from __future__ import annotations

import json
import math
import time
from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits
from tqdm import tqdm

from features.artifact import Artifact, ArtifactWriter
from features.errors import CascadeError
from features.onnx_export import export_onnx
from features.rowwise_adagrad import RowwiseAdagrad
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema
from ranking.clicks.metrics import auc, log_losses
from ranking.clicks.model import ClickModel
from ranking.clicks.ranker import ClickRanker
from ranking.config import ClickConfig, RankingConfig

# N rows

PROBABILITY = "probability"
"""Output of `ranker.onnx`, [N]."""
_BATCHES_SHOWN = 50


class DivergedError(CascadeError, ArithmeticError):
    """Training ran away: the loss is no number any more."""


@dataclass
class ClickCurve:
    """What training reached before the first epoch and after each."""

    epochs: list[dict[str, float]] = field(default_factory=list)
    train_seconds: float = 0.0

    @property
    def best_epoch(self) -> int:
        """Number of epochs after which the valid part's log loss was lowest."""
        return int(np.argmin([epoch["valid_log_loss"] for epoch in self.epochs]))

    @property
    def best(self) -> dict[str, float]:
        return self.epochs[self.best_epoch]


def run(config: RankingConfig, etl: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write the ranking artifact of an impression log.

    Args:
        config: `clicks` and `num_threads` apply.
    Raises: ClickDataError if a value of the examples cannot be used; DivergedError.
    """
    torch.set_num_threads(config.num_threads)
    schema = click_schema(etl)
    fitted, held_out = (
        ClickBatches(etl.files(f"examples/{part}/"), schema, config.clicks.batch_size, seed)
        for part in ("train", "valid")
    )
    torch.manual_seed(seed)
    model = ClickRanker(schema, config.network, fitted.statistics, config.clicks.l2)
    curve = train(model, fitted, held_out, config.clicks, "ranking")
    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_clicks(model, writer.path / "ranker.onnx")
    (writer.path / "learning_curve.json").write_text(json.dumps(curve.epochs, indent=2) + "\n")
    writer.metrics |= {
        "kind": "impressions",
        "best_epoch": curve.best_epoch,
        "valid_log_loss": curve.best["valid_log_loss"],
        "valid_auc": curve.best["valid_auc"],
        "rows_per_second": fitted.num_rows * (len(curve.epochs) - 1) / curve.train_seconds,
        "vocabulary": etl.metrics["vocabulary"],
    }


def train(
    model: ClickModel, fitted: ClickBatches, held_out: ClickBatches, config: ClickConfig, name: str
) -> ClickCurve:
    """Train a model in place until it stops improving on `held_out`, and leave it in eval mode as it was best there.

    Args:
        config: step sizes, weight decay, epochs and patience apply.
        name: before the progress bar.
    Raises: DivergedError.
    """
    optimizers = (
        RowwiseAdagrad(model.sparse_parameters(), config.table_learning_rate),
        torch.optim.AdamW(model.dense_parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True),
    )
    curve = ClickCurve([evaluated(model, held_out)])
    best = _copied(model)
    model.start()
    with _Progress(name, curve.epochs[0]["valid_auc"]) as progress:
        for epoch in range(config.max_epochs):
            begun = time.monotonic()
            train_loss = _epoch(model, fitted, epoch, optimizers, progress)
            curve.train_seconds += time.monotonic() - begun
            curve.epochs.append({"train_log_loss": train_loss} | evaluated(model, held_out))
            if not all(map(math.isfinite, curve.epochs[-1].values())):
                raise DivergedError(
                    f"{name}: epoch {epoch + 1} ended with {curve.epochs[-1]}, needed finite losses; lower "
                    f"ranking.clicks.learning_rate ({config.learning_rate}) or table_learning_rate "
                    f"({config.table_learning_rate})"
                )
            progress.valid_auc = curve.epochs[-1]["valid_auc"]
            if curve.best_epoch == epoch + 1:
                best = _copied(model)
            if epoch + 1 - curve.best_epoch >= config.patience:
                break
    model.load_state_dict(best)
    return curve


@torch.no_grad()
def predicted(model: ClickModel, batches: ClickBatches) -> tuple[np.ndarray, np.ndarray]:
    """[N] probabilities in float32 and [N] labels, in file order; leaves the model in eval mode."""
    model.eval()
    rows = [(model.probability(batch).numpy(), batch[batches.label].numpy()) for batch in batches.in_order()]
    probabilities, labels = zip(*rows, strict=True)
    return np.concatenate(probabilities), np.concatenate(labels)


def evaluated(model: ClickModel, batches: ClickBatches) -> dict[str, float]:
    """Log loss in nats and AUC."""
    probability_N, label_N = predicted(model, batches)
    return {
        "valid_log_loss": float(log_losses(probability_N, label_N).mean()),
        "valid_auc": auc(probability_N, label_N),
    }


def export_clicks(model: ClickModel, path: Path) -> None:
    """Inputs by name: categories [N] int32, numbers [N] float32. Output: `probability` [N]."""
    example = model.example_batch()
    axes = {name: {0: "rows"} for name in [*example, PROBABILITY]}
    export_onnx(model, model.probability, example, axes, PROBABILITY, path)


def _epoch(
    model: ClickModel,
    fitted: ClickBatches,
    epoch: int,
    optimizers: tuple[torch.optim.Optimizer, ...],
    progress: _Progress,
) -> float:
    """The mean log loss of each row before its step."""
    model.train()
    total = 0.0
    for batch in fitted.epoch(epoch):
        label_N = batch[fitted.label].float()
        logit_N, penalty = model.scored(batch)
        loss = binary_cross_entropy_with_logits(logit_N, label_N)
        for optimizer in optimizers:
            optimizer.zero_grad()
        (loss + penalty).backward()
        for optimizer in optimizers:
            optimizer.step()
        total += loss.item() * len(label_N)
        progress.update(logit_N, label_N)
    return total / fitted.num_rows


def _copied(model: ClickModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


class _Progress:
    """A bar with rows/s, and loss and AUC of the last batches, each scored before its step."""

    def __init__(self, name: str, valid_auc: float) -> None:
        self.valid_auc = valid_auc
        self._bar = tqdm(desc=name, unit=" rows", disable=None, leave=False)
        self._recent: deque[tuple[np.ndarray, np.ndarray]] = deque(maxlen=_BATCHES_SHOWN)
        self._num_batches = 0

    def __enter__(self) -> _Progress:
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def update(self, logit_N: torch.Tensor, label_N: torch.Tensor) -> None:
        self._bar.update(len(label_N))
        if self._bar.disable:
            return
        self._recent.append((torch.sigmoid(logit_N.detach()).numpy(), label_N.numpy()))
        self._num_batches += 1
        if self._num_batches % _BATCHES_SHOWN == 0:
            scores, labels = map(np.concatenate, zip(*self._recent, strict=True))
            shown = {"loss": log_losses(scores, labels).mean(), "auc": auc(scores, labels)}
            self._bar.set_postfix({n: f"{v:.4f}" for n, v in (shown | {"valid_auc": self.valid_auc}).items()})
