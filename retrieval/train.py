"""Stage `retrieval`: trains the two-tower model and writes its encoder and everybody's vectors.

Parts: `model.safetensors`, `query_encoder.onnx`, `item_vectors.parquet`, `user_vectors.parquet`, `learning_curve.json`,
and `proposals.parquet` with `proposing_vectors.parquet`, from which the ranker learns.

The model is trained on the train part until recall on the validation part stops growing. That early model proposes
candidates for the validation part, which it has never seen. The served model is trained anew on train and validation
together for as many epochs: it has seen the newest interactions.

Every example's user is known as of a moment up to one validation period before the interaction, as in serving.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from features.artifact import Artifact, ArtifactWriter
from features.batches import Batch, FeatureTables
from features.list_column import list_column
from features.schema import UNSEEN
from retrieval.aged_state import aged_batches
from retrieval.config import RetrievalConfig
from retrieval.export import export_query_encoder
from retrieval.losses import sampled_softmax
from retrieval.popularity import PopularityTimeline
from retrieval.proposals import write_proposals
from retrieval.scored_items import ScoredItems
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds, Validation

# B examples  C scored items  I items  U users  D embedding  E = D + 1


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
    torch.set_num_threads(config.num_threads)
    tables, popularity = FeatureTables(etl), PopularityTimeline(etl)
    parts = {name: etl.files(f"examples/{name}/") for name in ("train", "valid")}
    hidden = UnseenIds(etl)
    validation = Validation(etl, tables, popularity, hidden, config.recall_at)
    early, curve = train(config, etl, tables, popularity, parts["train"], seed, hidden=hidden, validation=validation)
    write_proposals(early, tables, popularity, etl, hidden, config.num_proposals, seed, writer)
    model = early
    if config.refit:
        model, _ = train(
            config, etl, tables, popularity, [*parts["train"], *parts["valid"]], seed, num_epochs=curve.best_epoch
        )

    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_query_encoder(model, tables, writer.path / "query_encoder.onnx")
    item_IE = item_vectors(model, tables.items, popularity.at(etl.metrics["as_of"]))
    _write_vectors(writer, "item_vectors.parquet", etl.file("items.parquet"), item_IE)
    _write_vectors(writer, "user_vectors.parquet", etl.file("users.parquet"), user_vectors(model, tables))
    (writer.path / "learning_curve.json").write_text(json.dumps(_without_clock(curve), indent=2) + "\n")
    writer.metrics |= {
        "vocabulary": etl.metrics["vocabulary"],
        f"valid_recall_at_{config.recall_at}": max(epoch["recall"] for epoch in curve.epochs),
        "best_epoch": curve.best_epoch,
        "rows_per_second": curve.epochs[-1]["rows_per_second"],
        "temperature": float(model.temperature.detach()),
    }


def train(
    config: RetrievalConfig,
    etl: Artifact,
    tables: FeatureTables,
    popularity: PopularityTimeline,
    examples: list[Path],
    seed: int,
    *,
    hidden: UnseenIds | None = None,
    validation: Validation | None = None,
    num_epochs: int | None = None,
) -> tuple[TwoTower, LearningCurve]:
    """Train from scratch; equal arguments give an equal model.

    Args:
        examples: parquet files of the etl stage.
        hidden: ids that the train part does not have, shown to the model as unseen.
        validation: stops training when its recall stops growing; None trains all epochs.
        num_epochs: instead of the config's max_epochs.
    Returns: the averaged model in eval mode, and what each epoch reached.
    """
    torch.manual_seed(seed)
    batches = aged_batches(etl, tables, examples, config.batch_size, seed)
    scored_items = ScoredItems(batches.column("item_row"), etl.metrics["num_items"], config.num_scored_items)
    model = TwoTower(tables.schema, config.two_tower)
    first = next(batches.in_order())
    model.queries(first)
    model.items(first)  # Merlin's layers take their shapes from the first batch
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging)).eval()
    kept = cast(TwoTower, averaged.module)
    optimizer = torch.optim.AdamW(
        model.parameters(), config.learning_rate, weight_decay=config.weight_decay, fused=True
    )
    best: dict[str, torch.Tensor] = {}
    curve = LearningCurve()
    with tqdm(desc="retrieval", unit=" rows", disable=None, leave=False) as progress:
        for epoch in range(num_epochs or config.max_epochs):
            begun, losses = time.monotonic(), []
            for batch in batches.epoch(epoch):
                batch = hidden(batch) if hidden else batch
                loss = _loss(model, batch, tables, scored_items, popularity, hidden, config.id_dropout)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                averaged.update_parameters(model)
                losses.append(loss.detach())
                progress.update(len(batch["item_row"]))
            record = {"loss": float(torch.stack(losses).mean())}
            record["rows_per_second"] = batches.num_rows / (time.monotonic() - begun)
            if validation:
                record["recall"] = validation.recall(kept)
            curve.epochs.append(record)
            if validation and curve.best_epoch == len(curve.epochs):
                best = {name: value.clone() for name, value in kept.state_dict().items()}
            progress.set_postfix({name: f"{value:.4g}" for name, value in record.items()})
            if validation and len(curve.epochs) - curve.best_epoch >= config.patience:
                break
    if best:
        kept.load_state_dict(best)
    return kept, curve


@torch.no_grad()
def user_vectors(model: TwoTower, tables: FeatureTables) -> np.ndarray:
    """[U, D + 1] float32 query vectors of the users as serving knows them, row u is user_row u."""
    chunks = torch.arange(len(tables.users["user_id"])).split(8_192)
    states = ({name: column[rows] for name, column in tables.users.items()} for rows in chunks)
    return torch.cat([model.query_vectors(state) for state in states]).numpy()


def _loss(
    model: TwoTower,
    batch: Batch,
    tables: FeatureTables,
    scored_items: ScoredItems,
    popularity: PopularityTimeline,
    hidden: UnseenIds | None,
    id_dropout: float,
) -> torch.Tensor:
    item_row_C, positive_B, log_q_C = scored_items.draw(batch["item_row"])
    items = tables.item_features(item_row_C)
    items = hidden(items) if hidden else items
    query_BD, weight_B1 = model.queries(batch | {"user_id": _dropped(batch["user_id"], id_dropout)})
    item_CD = model.items(items | {"item_id": _dropped(items["item_id"], id_dropout)})
    score_BC = query_BD @ item_CD.T + weight_B1 * popularity.before(batch["timestamp"], item_row_C)
    return sampled_softmax(score_BC, positive_B, log_q_C)


def _dropped(ids: torch.Tensor, share: float) -> torch.Tensor:
    return torch.where(torch.rand(ids.shape) < share, UNSEEN, ids)


def _without_clock(curve: LearningCurve) -> list[dict[str, float]]:
    return [{name: value for name, value in epoch.items() if name != "rows_per_second"} for epoch in curve.epochs]


def _write_vectors(writer: ArtifactWriter, name: str, ids_from: Path, vectors: np.ndarray) -> None:
    raw_id = pq.read_table(ids_from, columns=["raw_id"])["raw_id"]
    pq.write_table(pa.table({"raw_id": raw_id, "vector": list_column(vectors)}), writer.path / name)
    writer.rows[name] = len(vectors)
