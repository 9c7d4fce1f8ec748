"""Stage `ranking`: trains the DLRM on what retrieval proposed and exports it.

Parts: `model.safetensors`, `ranker.onnx`, `examples/{early,late,all}.parquet`, `learning_curve.json`.

The number of epochs is found on the early part of the examples, with the late part held out; the exported model is
trained on all of them.
"""

from __future__ import annotations

import json
from typing import Annotated

import numpy as np
import pyarrow.parquet as pq
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass
from safetensors.torch import save_file
from torch import nn
from torchmetrics.functional.classification import binary_auroc
from tqdm import tqdm

from features.artifact import Artifact, ArtifactWriter
from features.batches import Batches, FeatureTables
from ranking.dlrm import Dlrm, DlrmConfig, ranker_schema
from ranking.examples import NegativesConfig, write_examples
from ranking.export import export_ranker


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RankingConfig:
    """Ranking model."""

    dlrm: DlrmConfig = DlrmConfig()
    """Model."""
    negatives: NegativesConfig = NegativesConfig()
    """Negatives."""
    batch_size: Annotated[int, Field(ge=1)] = 1024
    """Pairs per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay."""
    max_epochs: Annotated[int, Field(ge=1)] = 10
    """Most passes over the early examples."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Passes without a better log loss on the late examples before training stops."""
    late_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the interactions, the latest, that choose the number of epochs."""


def run(config: RankingConfig, etl: Artifact, retrieval: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write the ranking artifact."""
    tables = FeatureTables(etl)
    (writer.path / "examples").mkdir()
    parts = {name: writer.path / "examples" / f"{name}.parquet" for name in ("early", "late", "all")}
    write_examples(config.negatives, etl, retrieval, seed, parts["all"])
    everything = pq.read_table(parts["all"])
    moment = everything["timestamp"].to_numpy()
    cut = np.quantile(moment, 1 - config.late_share, method="higher")
    pq.write_table(everything.filter(moment < cut), parts["early"])
    pq.write_table(everything.filter(moment >= cut), parts["late"])

    held_out = Batches([parts["late"]], tables, 8_192, seed)
    early = Batches([parts["early"]], tables, config.batch_size, seed)
    _, curve = train(config, tables, early, seed, config.max_epochs, held_out)
    best = int(np.argmin([epoch["log_loss"] for epoch in curve]))
    whole = Batches([parts["all"]], tables, config.batch_size, seed)
    model, _ = train(config, tables, whole, seed, best + 1, None)

    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_ranker(model, tables, writer.path / "ranker.onnx")
    (writer.path / "learning_curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    writer.metrics |= {"best_epoch": best + 1, "num_pairs": len(everything), **curve[best]}


def train(
    config: RankingConfig, tables: FeatureTables, batches: Batches, seed: int, num_epochs: int, held_out: Batches | None
) -> tuple[Dlrm, list[dict[str, float]]]:
    """Train from scratch; equal arguments give an equal model.

    Args:
        held_out: stops training when its log loss stops falling; None trains all epochs.
    Returns: the model in eval mode, and what each epoch reached.
    """
    torch.manual_seed(seed)
    model = Dlrm(ranker_schema(tables.schema), config.dlrm)
    model(next(batches.in_order()))  # Merlin's layers take their shapes from the first batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    curve: list[dict[str, float]] = []
    with tqdm(desc="ranking", unit=" rows", disable=None, leave=False) as progress:
        for epoch in range(num_epochs):
            losses = []
            for batch in batches.epoch(epoch):
                loss = nn.functional.binary_cross_entropy_with_logits(model(batch), batch["label"])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                progress.update(len(batch["label"]))
            record = {"train_loss": float(torch.stack(losses).mean())}
            if held_out:
                record |= evaluate(model, held_out)
            curve.append(record)
            progress.set_postfix(epoch=epoch + 1, **{name: f"{value:.4g}" for name, value in record.items()})
            if held_out and epoch - int(np.argmin([past["log_loss"] for past in curve])) >= config.patience:
                break
    return model.eval(), curve


@torch.no_grad()
def evaluate(model: Dlrm, batches: Batches) -> dict[str, float]:
    """Log loss (nats) and AUC over labelled pairs."""
    model.eval()
    scored = [(model(batch), batch["label"]) for batch in batches.in_order()]
    model.train()
    logit, label = (torch.cat(column) for column in zip(*scored, strict=True))
    loss = nn.functional.binary_cross_entropy_with_logits(logit, label)
    return {"log_loss": float(loss), "auc": float(binary_auroc(logit.sigmoid(), label.long()))}
