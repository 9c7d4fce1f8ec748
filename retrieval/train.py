"""Stage `retrieval`: trains the two-tower model and writes its encoder and everybody's vectors.

Parts: `model.safetensors`, `query_encoder.onnx`, `item_vectors.parquet`, `user_vectors.parquet`, `learning_curve.json`,
and `proposals.parquet` with `proposing_vectors.parquet`, from which the ranker learns.

The model is trained on the train part until recall on the validation part stops growing. That early model proposes
candidates for the validation part, which it has never seen. The served model is trained anew on train and validation
together for as many epochs: it has seen the newest interactions.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass
from safetensors.torch import save_file
from tqdm import tqdm

from features.artifact import Artifact, ArtifactWriter
from features.batches import Batch, Batches, FeatureTables
from features.schema import UNSEEN
from features.split import TRAIN, VALID
from retrieval.export import export_query_encoder
from retrieval.losses import in_batch_softmax
from retrieval.proposals import vector_column, write_proposals
from retrieval.two_tower import TwoTower, TwoTowerConfig, item_vectors
from retrieval.validation import UnseenIds, Validation

# I items  U users  D embedding


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RetrievalConfig:
    """Candidate model."""

    two_tower: TwoTowerConfig = TwoTowerConfig()
    """Encoder."""
    batch_size: Annotated[int, Field(ge=2)] = 1024
    """Examples per step; the other examples' items are the negatives."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Step size of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decoupled weight decay."""
    max_epochs: Annotated[int, Field(ge=1)] = 20
    """Most passes over the train part."""
    patience: Annotated[int, Field(ge=1)] = 3
    """Passes without a better validation recall before training stops."""
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of user and item ids replaced by "unseen" while training, so that new ones get a useful vector."""
    recall_at: Annotated[int, Field(ge=1)] = 100
    """Cut-off of the validation recall that stops training."""
    refit: bool = True
    """Train the served model anew on train and validation together."""
    num_proposals: Annotated[int, Field(ge=1)] = 100
    """Candidates written for each validation interaction, from which the ranker draws its negatives."""


@dataclass
class LearningCurve:
    """What each epoch reached."""

    epochs: list[dict[str, float]] = field(default_factory=list)

    @property
    def best_epoch(self) -> int:
        """Number of epochs, from 1, after which the validation recall was highest."""
        return 1 + int(np.argmax([epoch["recall"] for epoch in self.epochs]))


def run(config: RetrievalConfig, etl: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write the retrieval artifact."""
    tables = FeatureTables(etl)
    train_examples, valid_examples = etl.file("examples/train.parquet"), etl.file("examples/valid.parquet")
    validation = Validation(etl, tables, config.recall_at)
    hidden = UnseenIds(etl)
    batches = Batches([train_examples], tables, config.batch_size, seed)
    early, curve = train(config, tables, batches, etl, seed, hidden=hidden, validation=validation)
    write_proposals(early, tables, etl, hidden, config.num_proposals, writer)
    model = early
    if config.refit:
        batches = Batches([train_examples, valid_examples], tables, config.batch_size, seed)
        model, _ = train(config, tables, batches, etl, seed, num_epochs=curve.best_epoch)

    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_query_encoder(model, tables, writer.path / "query_encoder.onnx")
    _write_vectors(writer, "item_vectors.parquet", etl.file("items.parquet"), item_vectors(model, tables.items))
    _write_vectors(writer, "user_vectors.parquet", etl.file("users.parquet"), user_vectors(model, tables))
    (writer.path / "learning_curve.json").write_text(json.dumps(_without_clock(curve), indent=2) + "\n")
    writer.metrics |= {
        f"valid_recall_at_{config.recall_at}": max(epoch["recall"] for epoch in curve.epochs),
        "best_epoch": curve.best_epoch,
        "rows_per_second": curve.epochs[-1]["rows_per_second"],
        "temperature": float(model.temperature),
    }


def train(
    config: RetrievalConfig,
    tables: FeatureTables,
    batches: Batches,
    etl: Artifact,
    seed: int,
    *,
    hidden: UnseenIds | None = None,
    validation: Validation | None = None,
    num_epochs: int | None = None,
) -> tuple[TwoTower, LearningCurve]:
    """Train from scratch; equal arguments give an equal model.

    Args:
        hidden: ids that the train part does not have, shown to the model as unseen.
        validation: stops training when its recall stops growing; None trains all epochs.
        num_epochs: instead of the config's max_epochs.
    """
    torch.manual_seed(seed)
    best: dict[str, torch.Tensor] = {}
    model = TwoTower(tables.schema, config.two_tower)
    log_q = _log_popularity(etl, parts=(TRAIN,) if hidden else (TRAIN, VALID))
    first = next(batches.in_order())
    model.query_vectors(first), model.item_vectors(first)  # Merlin's layers take their shapes from the first batch
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    curve = LearningCurve()
    with tqdm(desc="retrieval", unit=" rows", disable=None, leave=False) as progress:
        for epoch in range(num_epochs or config.max_epochs):
            begun, losses = time.monotonic(), []
            for batch in batches.epoch(epoch):
                if hidden:
                    batch = hidden(batch)
                batch = _drop_ids(batch, config.id_dropout)
                loss = in_batch_softmax(
                    model.query_vectors(batch),
                    model.item_vectors(batch),
                    batch["item_row"],
                    log_q[batch["item_row"]],
                    model.temperature,
                )
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.detach())
                progress.update(len(batch["item_row"]))
            record = {"loss": float(torch.stack(losses).mean())}
            record["rows_per_second"] = batches.num_rows / (time.monotonic() - begun)
            if validation:
                record["recall"] = validation.recall(model, hidden)
            curve.epochs.append(record)
            if validation and curve.best_epoch == len(curve.epochs):
                best = {name: value.clone() for name, value in model.state_dict().items()}
            progress.set_postfix(epoch=epoch + 1, **{name: f"{value:.4g}" for name, value in record.items()})
            if validation and len(curve.epochs) - curve.best_epoch >= config.patience:
                break
    if best:
        model.load_state_dict(best)
    return model.eval(), curve


@torch.no_grad()
def user_vectors(model: TwoTower, tables: FeatureTables) -> np.ndarray:
    """[U, D] float32 unit vectors of the users as serving knows them, row u is user_row u."""
    chunks = torch.arange(len(tables.users["user_id"])).split(8_192)
    states = ({name: column[rows] for name, column in tables.users.items()} for rows in chunks)
    return torch.cat([model.query_vectors(state) for state in states]).numpy()


def _drop_ids(batch: Batch, share: float) -> Batch:
    dropped = {
        name: torch.where(torch.rand(batch[name].shape) < share, UNSEEN, batch[name]) for name in ("user_id", "item_id")
    }
    return batch | dropped


def _log_popularity(etl: Artifact, parts: tuple[int, ...]) -> torch.Tensor:
    events = pq.read_table(etl.file("events.parquet"), columns=["item_row", "split"])
    counted = events["item_row"].to_numpy()[np.isin(events["split"].to_numpy(), parts)]
    count = np.bincount(counted, minlength=etl.metrics["num_items"])
    return torch.from_numpy(np.log(np.maximum(count, 1) / max(len(counted), 1)).astype(np.float32))


def _without_clock(curve: LearningCurve) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "rows_per_second"} for epoch in curve.epochs]


def _write_vectors(writer: ArtifactWriter, name: str, ids_from: Path, vectors: np.ndarray) -> None:
    raw_id = pq.read_table(ids_from, columns=["raw_id"])["raw_id"]
    pq.write_table(pa.table({"raw_id": raw_id, "vector": vector_column(vectors)}), writer.path / name)
    writer.rows[name] = len(vectors)
