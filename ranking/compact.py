"""The exported ranker in a compact form, held to the one that was trained.

What a smaller form costs is measured by the area under the ROC curve: of impressions over the rows of the valid part,
of candidates within the lists that the ranker learned from (what counts is the difference between both forms). A form
that costs more than is allowed is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
import onnx
import onnxruntime

from features.artifact import Artifact, ArtifactWriter
from features.batches import Batch, Batches, FeatureTables
from features.errors import CascadeError
from features.onnx_compact import Feed, input_ranges, load, table_bytes, with_compact_tables, with_int8_layers
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema, label_name
from ranking.clicks.metrics import auc
from ranking.config import CompactConfig

# B users or lists  K candidates  N rows

NUM_CALIBRATION_BATCHES = 16
"""Batches from which the ranges of the layers' inputs are taken."""
_LISTS_PER_BATCH = 256
_ROWS_PER_BATCH = 4_096
Scored = Sequence[np.ndarray]
"""What a model says of each batch."""


class CompactLossError(CascadeError, ValueError):
    """A compact form ranks worse than the trained model by more than is allowed."""


def compact(
    config: CompactConfig,
    path: Path,
    calibration: Iterable[Feed],
    judged: Sequence[Feed],
    quality: Callable[[Scored], float],
) -> dict[str, float]:
    """Put the compact form of an exported ranker in its place.

    Args:
        path: `ranker.onnx`.
        calibration: inputs by name, from which the ranges of int8 layers are taken.
        judged: inputs to compare both forms on.
        quality: AUC of the scores of those.
    Returns: auc_fp32, auc_compact, and the bytes of all weights before and after.
    Raises: CompactLossError.
    """
    trained = load(path)
    form = with_compact_tables(trained, config.tables)
    if config.layers == "int8":
        form = with_int8_layers(form, input_ranges(form, calibration))
    reached = {
        "auc_fp32": quality(_scores(trained, judged)),
        "auc_compact": quality(_scores(form, judged)),
        "bytes_fp32": table_bytes(trained),
        "bytes_compact": table_bytes(form),
    }
    lost = reached["auc_fp32"] - reached["auc_compact"]
    if not lost <= config.max_auc_loss:
        raise CompactLossError(
            f"{path.name}: with ranking.compact.tables = {config.tables!r} and layers = {config.layers!r} the AUC "
            f"falls by {lost:.5f}, from {reached['auc_fp32']:.5f} to {reached['auc_compact']:.5f}; "
            f"ranking.compact.max_auc_loss allows {config.max_auc_loss}. Set them back to 'fp32', or raise it"
        )
    onnx.save(form, str(path))
    return reached


def compact_candidates(config: CompactConfig, etl: Artifact, lists: Path, seed: int, writer: ArtifactWriter) -> None:
    """The form of the ranker of candidates in an artifact that is being written.

    Args:
        lists: those that the ranker was trained on; each `features.batches.Batches` with is_taken and is_shown [B, K].
    """
    if config == CompactConfig(max_auc_loss=config.max_auc_loss):
        return
    path = writer.path / "ranker.onnx"
    inputs = [value.name for value in load(path).graph.input]
    rows = Batches([lists], FeatureTables(etl), _LISTS_PER_BATCH, seed)
    batches = [*rows.in_order()]

    def quality(scores: Scored) -> float:
        of_list = [
            list_auc(score_BK, batch["is_taken"].numpy(), batch["is_shown"].numpy())
            for score_BK, batch in zip(scores, batches, strict=True)
        ]
        return float(np.nanmean(np.concatenate(of_list)))

    feeds = [_feed(batch, inputs) for batch in batches]
    calibration = (_feed(batch, inputs) for batch in islice(rows.epoch(0), NUM_CALIBRATION_BATCHES))
    writer.metrics["compact"] = compact(config, path, calibration, feeds, quality)


def compact_clicks(config: CompactConfig, etl: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """The form of the ranker of impressions in an artifact that is being written; measured on the valid part."""
    if config == CompactConfig(max_auc_loss=config.max_auc_loss):
        return
    path, schema = writer.path / "ranker.onnx", click_schema(etl)
    inputs, label = [value.name for value in load(path).graph.input], label_name(schema)
    fitted, valid = (
        ClickBatches(etl.files(f"examples/{part}/"), schema, _ROWS_PER_BATCH, seed) for part in ("train", "valid")
    )
    batches = [*valid.in_order()]
    label_N = np.concatenate([batch[label].numpy() for batch in batches])
    feeds = (_feed(batch, inputs) for batch in islice(fitted.epoch(0), NUM_CALIBRATION_BATCHES))
    judged = [_feed(batch, inputs) for batch in batches]
    writer.metrics["compact"] = compact(
        config, path, feeds, judged, lambda scores: auc(np.concatenate(scores), label_N)
    )


def list_auc(score_BK: np.ndarray, is_taken_BK: np.ndarray, is_shown_BK: np.ndarray) -> np.ndarray:
    """[B] AUC within each list: the share of its pairs of a taken item and another in which the taken one is scored
    above, ties half; nan for a list without such a pair."""
    shown_BK = is_shown_BK > 0
    taken_BK, other_BK = shown_BK & (is_taken_BK > 0), shown_BK & (is_taken_BK <= 0)
    found_B = np.full(len(score_BK), np.nan)
    for row in np.flatnonzero(taken_BK.any(1) & other_BK.any(1)):
        label = np.append(np.ones(taken_BK[row].sum()), np.zeros(other_BK[row].sum()))
        found_B[row] = auc(np.append(score_BK[row, taken_BK[row]], score_BK[row, other_BK[row]]), label)
    return found_B


def _feed(batch: Batch, inputs: Sequence[str]) -> dict[str, np.ndarray]:
    return {name: batch[name].numpy() for name in inputs}


def _scores(model: onnx.ModelProto, feeds: Iterable[Feed]) -> list[np.ndarray]:
    return [*_said(model, feeds)]


def _said(model: onnx.ModelProto, feeds: Iterable[Feed]) -> Iterator[np.ndarray]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    output = session.get_outputs()[0].name
    for feed in feeds:
        yield session.run([output], dict(feed))[0]
