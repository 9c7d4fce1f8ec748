"""The start of a click model from the run's earlier one, after an append."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from features import vocabulary
from features.artifact import MANIFEST, Artifact, ArtifactError, ArtifactWriter, open_artifact
from features.earlier_inputs import SCHEMA, why_other_inputs
from features.grown_weights import WarmStartError, grown
from ranking.clicks.ranker import ClickRanker
from ranking.config import NetworkConfig
from ranking.training.trained_weights import TrainedWeights

WEIGHTS, ACCUMULATORS = "model.safetensors", "accumulators.safetensors"
"""Parts of the ranking artifact. ACCUMULATORS: by table, row-wise Adagrad's sum of each row, [R]."""
_KEY = "ranking.clicks.warm_start"
_FREE = ("dropout", "tables")
"""Keys of the network that leave its weights as they are."""


def write_origin(etl: Artifact, model: ClickRanker, weights: TrainedWeights, writer: ArtifactWriter) -> None:
    """Write what a later ranker needs besides the weights to start from this one."""
    sums = {name: sum_R.contiguous() for name, sum_R in table_sums(model, weights).items()}
    save_file(sums, writer.path / ACCUMULATORS)
    for name in (SCHEMA, vocabulary.FILE):
        if name in etl.manifest["parts"]:
            shutil.copyfile(etl.file(name), writer.path / name)


def start_from_earlier(
    path: Path,
    etl: Artifact,
    config: NetworkConfig,
    model: ClickRanker,
    weights: TrainedWeights,
    say: Callable[[str], None],
) -> Artifact | None:
    """Put an earlier ranker's weights into a new model.

    Args:
        path: where the earlier ranking artifact stands, if there is one.
        etl: the new features.
        config: of the new model.
        model: with fresh weights, which `weights` moves.
        say: gets a line that says what was taken over, or why nothing was.
    Returns: the earlier artifact; None if training begins anew, and then the weights are as they were.
    """
    if not (path / MANIFEST).is_file():
        say(f"{path}: there is no earlier ranker to start from; training begins anew")
        return None
    try:
        earlier = open_artifact(path, "ranking")
        reason = _why_not(earlier, etl, config)
        if reason is None:
            num_new = _take_over(earlier, model, weights)
            say(f"{path}: training starts from this ranker's weights, with {num_new} ids more")
            return earlier
    except (ArtifactError, WarmStartError) as error:
        reason = str(error)
    say(f"{path}: the earlier ranker cannot be started from ({reason}); training begins anew")
    return None


def table_sums(model: ClickRanker, weights: TrainedWeights) -> dict[str, torch.Tensor]:
    """By table, row-wise Adagrad's sum of each row, [R]; the tensors in use."""
    return model.table_optimizer_state() or dict(zip(model.tables.weights(), weights.adagrad_sums(), strict=True))


def _why_not(earlier: Artifact, etl: Artifact, config: NetworkConfig) -> str | None:
    """Why the ids or the inputs of the earlier ranker do not mean what they mean now; None if they do."""
    if any(name not in earlier.manifest["parts"] for name in (ACCUMULATORS, SCHEMA, vocabulary.FILE)):
        return "it was made by an earlier Cascade, or from features without a vocabulary"
    return why_other_inputs(earlier, etl, config, "ranking.network", _FREE)


def _take_over(earlier: Artifact, model: ClickRanker, weights: TrainedWeights) -> int:
    """Returns: rows of tables that the earlier ranker does not have."""
    sums = table_sums(model, weights)
    fresh = {name: value.detach().clone() for name, value in model.state_dict().items()}
    state = grown(load_file(earlier.file(WEIGHTS)), fresh, _KEY)
    earlier_sums = load_file(earlier.file(ACCUMULATORS))
    grown_sums = grown(earlier_sums, sums, _KEY)
    model.load_state_dict(state)
    for name, sum_R in sums.items():
        sum_R.copy_(grown_sums[name])
    return sum(len(sum_R) - len(earlier_sums[name]) for name, sum_R in sums.items())
