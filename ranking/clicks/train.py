"""Stage `ranking` for impressions: trains the click model on the train part and exports it.

Parts: `model.safetensors`, `calibration.json`, `ranker.onnx`, `learning_curve.json`; for a later ranker that starts
from this one `accumulators.safetensors`, `schema.json`, `vocabulary.json`.

Training stops when the log loss of the valid part stops falling, and the model that was best there is kept. Untrained,
the model says the train part's click rate of every row; where training does not improve on that, it stays untrained.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from safetensors.torch import save_file
from torch.nn.functional import binary_cross_entropy_with_logits

from features.allocator import keep_freed_memory
from features.artifact import Artifact, ArtifactWriter
from features.batches import Batch
from features.bfloat16 import has_fast_bf16
from features.checkpoint import Checkpoint, training_key
from features.onnx_export import export_onnx
from ranking.calibration import Calibrator, save_calibrator
from ranking.clicks.batches import ClickBatches
from ranking.clicks.calibrated import calibrated
from ranking.clicks.checks import LabelError, click_schema
from ranking.clicks.metrics import auc, log_losses
from ranking.clicks.model import ClickModel
from ranking.clicks.new_rows import rows_behind
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.warm_start import start_from_earlier, write_origin
from ranking.config import ClickConfig, RankingConfig
from ranking.training.learning_curve import LearningCurve
from ranking.training.loop import OnEpoch, Training
from ranking.training.progress import ProgressBar
from ranking.training.schedule import RateSchedule
from ranking.training.trained_weights import Rates, TrainedWeights

# N rows

PROBABILITY, LOGIT = "probability", "logit"
"""Outputs of `ranker.onnx`, [N]: calibrated, and as the model has it."""
CURVE = "learning_curve.json"


def run(
    config: RankingConfig,
    etl: Artifact,
    seed: int,
    writer: ArtifactWriter,
    checkpoints: Path | None = None,
    say: Callable[[str], None] = print,
    earlier: Path | None = None,
) -> None:
    """Write the ranking artifact of an impression log.

    Args:
        config: `network`, `clicks`, `calibration` and `num_threads` apply.
        checkpoints: a folder for the training's checkpoint, outside of the artifact's: a run that was killed goes on
            from there and writes the same artifact. To be removed when that is finished. None: no checkpoints.
        say: gets a line when a checkpoint or an earlier ranker is taken up or passed over.
        earlier: where the run's earlier ranking artifact stands, for `clicks.warm_start`.
    Raises: ClickDataError if a value of the examples cannot be used; DivergedError.
    """
    torch.set_num_threads(config.num_threads)
    keep_freed_memory()  # large batches would map and zero their tensors' pages anew in every step
    clicks, schema = config.clicks, click_schema(etl)
    fitted, held_out = (
        ClickBatches(etl.files(f"examples/{part}/"), schema, clicks.batch_size, seed) for part in ("train", "valid")
    )
    torch.manual_seed(seed)
    model = ClickRanker(schema, config.network, fitted.statistics, clicks.l2)
    weights, origin = TrainedWeights(model, rates_of(clicks, fitted)), None
    if clicks.warm_start and earlier:
        origin = start_from_earlier(earlier, etl, config.network, model, weights, say)
    file, key = checkpoints and checkpoints / "clicks.safetensors", [asdict(config), etl.content_hash, seed]
    with TemporaryDirectory(prefix="cascade-ranking-") as folder:
        rows = fitted
        if origin:
            clicks = replace(clicks, max_epochs=clicks.warm_start_epochs)
            rows = _unseen_rows(fitted, origin, etl, clicks, seed, Path(folder), say)
            weights.rates = rates_of(clicks, rows)
        curve = train(
            model,
            rows,
            held_out,
            clicks,
            "ranking",
            weights=weights,
            is_trained=origin is not None,
            checkpoint=file and Checkpoint(file, clicks.checkpoint_minutes, say),
            key=training_key(*key, origin and origin.content_hash),
        )
    write_origin(etl, model, weights, writer)
    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    calibrator, calibration = calibrated(model, held_out, config.calibration)
    save_calibrator(calibrator, writer.path / "model.safetensors", writer.path / "calibration.json")
    export_clicks(model, writer.path / "ranker.onnx", calibrator)
    curve.write(writer.path / CURVE)
    writer.volatile.append(CURVE)  # it carries seconds
    writer.metrics |= {
        "kind": "impressions",
        "best_epoch": curve.best_epoch,
        "valid_log_loss": curve.best["valid_log_loss"],
        "valid_auc": curve.best["valid_auc"],
        "rows_per_second": curve.rows_per_second,
        "calibration": calibration,
        "vocabulary": etl.metrics["vocabulary"],
        "num_train_rows": fitted.num_rows,
        "started_from": origin and origin.metrics["vocabulary"]["number"],
    }


def train(
    model: ClickModel,
    fitted: ClickBatches,
    held_out: ClickBatches,
    config: ClickConfig,
    name: str,
    *,
    weights: TrainedWeights | None = None,
    is_trained: bool = False,
    checkpoint: Checkpoint | None = None,
    key: str = "",
    on_epoch: OnEpoch = lambda epoch, reached: None,
) -> LearningCurve:
    """Train a model in place until it stops improving on `held_out`, and leave it in eval mode as it was best there.

    Args:
        config: all but batch_size and l2 apply, which batches and model have.
        name: before the progress bar.
        weights: what moves the model, and is left as after the best epoch; None for fresh optimizers.
        is_trained: whether the model comes from an earlier training.
        checkpoint: where the training stands is kept there, for trainings of the same `key`.
        on_epoch: is told every validated epoch, also the untrained model as epoch 0; what it raises ends the training.
    Returns: valid_log_loss and valid_auc of the untrained model and after every epoch, with train_log_loss (of each row
        before its step), learning_rate and table_learning_rate of the last step, seconds and rows_per_second.
    Raises: DivergedError.
    """
    weights = weights or TrainedWeights(model, rates_of(config, fitted))
    uses_bf16 = config.bf16 == "auto" and has_fast_bf16()
    with ProgressBar(name) as bar:

        def loss(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, int]:
            label_N = batch[fitted.label]
            with torch.autocast("cpu", torch.bfloat16, enabled=uses_bf16):
                logit_N, penalty = model.scored(batch)
            log_loss = mean_log_loss(logit_N, label_N)
            bar.update(logit_N, label_N)
            return log_loss + penalty, log_loss.detach(), len(label_N)

        def validate() -> dict[str, float]:
            reached = evaluated(model, held_out)
            bar.valid_auc = reached["valid_auc"]
            return reached

        training = Training(
            name,
            "ranking.clicks",
            weights,
            fitted,
            loss,
            validate,
            (lambda: None) if is_trained else model.start,
            measure="valid_log_loss",
            max_epochs=config.max_epochs,
            patience=config.patience,
            checkpoint=checkpoint,
            key=key,
            on_epoch=on_epoch,
        )
        return training.run()


def _unseen_rows(
    fitted: ClickBatches,
    origin: Artifact,
    etl: Artifact,
    config: ClickConfig,
    seed: int,
    folder: Path,
    say: Callable[[str], None],
) -> ClickBatches:
    """The rows that the earlier ranker has not seen; all of them if it is told so, or those cannot be learned from."""
    if config.warm_start_rows == "all":
        return fitted
    paths = rows_behind(etl.files("examples/train/"), origin.metrics["num_train_rows"], folder)
    if not paths:
        say("ranking: there are no rows that the earlier ranker has not seen; it trains on all of them")
        return fitted
    try:
        return ClickBatches(paths, click_schema(etl), config.batch_size, seed)
    except LabelError as error:
        say(f"ranking: the new rows alone cannot be learned from ({error}); it trains on all of them")
        return fitted


def mean_log_loss(logit_N: torch.Tensor, label_N: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy of logits in nats, in float32: finite for every finite logit.

    Args:
        logit_N: [N] of any floating type.
        label_N: [N] 0 or 1, of any type.
    """
    return binary_cross_entropy_with_logits(logit_N.float(), label_N.float())


def rates_of(config: ClickConfig, fitted: ClickBatches) -> Rates:
    """The rates of a training over these rows."""
    steps_per_epoch = math.ceil(fitted.num_rows / config.batch_size)
    schedule = RateSchedule(
        num_steps=config.max_epochs * steps_per_epoch,
        warmup_steps=round(config.warmup_epochs * steps_per_epoch),
        decay=config.decay,
        final_share=config.final_rate_share,
    )
    return Rates(config.learning_rate, config.table_learning_rate, config.weight_decay, config.clip_norm, schedule)


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


def export_clicks(model: ClickModel, path: Path, calibrator: Calibrator | None = None) -> None:
    """Inputs by name: categories [N] int32, numbers [N] float32. Outputs: `probability` [N], and the `logit` [N] of it.

    Args:
        calibrator: of the model's logits; None for the model's own probabilities.
    """
    example, calibrator = model.example_batch(), calibrator or Calibrator()

    def outputs(batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        logit_N = model(batch)
        return calibrator(logit_N), logit_N

    axes = {name: {0: "rows"} for name in [*example, PROBABILITY, LOGIT]}
    export_onnx(model, outputs, example, axes, [PROBABILITY, LOGIT], path)
