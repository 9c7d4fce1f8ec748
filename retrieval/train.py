"""Stage `retrieval`: trains the two-tower model and writes its encoder and everybody's vectors.

Parts: `model.safetensors`, `query_encoder.onnx`, `item_vectors.parquet`, `user_vectors.parquet`, `learning_curve.json`,
`sources/` with the other candidate sources and their merge, `sources.json` with what validation said of them, and
`proposals.parquet` with `proposing_vectors.parquet`, from which the ranker learns.

The model is trained on the train part until recall on the validation part stops growing. That early model proposes
candidates for the validation part, which it has never seen. The served model is trained anew on train and validation
together for as many epochs: it has seen the newest interactions.

Every example's user is known as of a moment up to one validation period before the interaction, as in serving.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file

from features.artifact import Artifact, ArtifactWriter
from features.batches import FeatureTables
from features.checkpoint import Checkpoint, training_key
from features.list_column import list_column
from retrieval.aged_state import aged_batches
from retrieval.candidates import save_stage
from retrieval.config import IndexConfig, RetrievalConfig
from retrieval.export import export_query_encoder
from retrieval.fit_sources import Asked, fit_stage, past_of, refit
from retrieval.index import build
from retrieval.origins import Origin, earlier_moments, examples_before, stage_before
from retrieval.popularity import PopularityTimeline
from retrieval.proposals import write_proposals
from retrieval.training.learning_curve import LearningCurve
from retrieval.training.loop import Training
from retrieval.training.scored_items import ScoredItems
from retrieval.training.step_loss import StepLoss
from retrieval.training.trained_weights import TrainedWeights
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds, Validation

# I items  U users  E width of the vectors


def run(
    config: RetrievalConfig,
    etl: Artifact,
    seed: int,
    writer: ArtifactWriter,
    checkpoints: Path | None = None,
    say: Callable[[str], None] = print,
) -> None:
    """Write the retrieval artifact.

    Args:
        checkpoints: a folder for the trainings' checkpoints, outside of the artifact's: a run that was killed goes on
            from there and writes the same artifact. It is removed when all parts are written. None: no checkpoints.
        say: gets a line when a checkpoint is taken up or passed over.
    Raises: DivergedError.
    """
    torch.set_num_threads(config.num_threads)

    def checkpoint(name: str) -> Checkpoint | None:
        return checkpoints and Checkpoint(checkpoints / f"{name}.safetensors", config.checkpoint_minutes, say)

    tables, popularity = FeatureTables(etl), PopularityTimeline(etl)
    parts = {name: etl.files(f"examples/{name}/") for name in ("train", "valid")}
    hidden = UnseenIds(etl)
    validation = Validation(etl, tables, popularity, hidden, config.recall_at, config.sources.max_users, seed)
    early, curve = train(
        config,
        etl,
        tables,
        popularity,
        parts["train"],
        seed,
        hidden=hidden,
        validation=validation,
        checkpoint=checkpoint("early"),
    )
    item_IE, past = validation.item_vectors(early), past_of(etl, tables, config.sources)
    stage, reports = fit_stage(
        config.sources,
        past.before(etl.metrics["valid_from"]),
        build(item_IE, IndexConfig(kind="flat")),
        Asked(validation.users(early), validation.relevant),
        config.recall_at,
        seed,
    )
    origins = [Origin(etl.metrics["valid_from"], etl.metrics["test_from"], early, stage, item_IE, hidden)]
    for moment in earlier_moments(etl, config.num_origins):
        model = _trained_before(moment, config, etl, tables, popularity, seed, curve.best_epoch, checkpoint)
        unseen, end = UnseenIds(etl, moment), origins[-1].moment
        origins.append(stage_before(moment, end, model, stage, past, tables, popularity, unseen, config.sources))
    write_proposals(origins, tables, etl, config, seed, writer)
    save_stage(writer.path / "sources", stage, refit(stage, past.before(etl.metrics["as_of"])))
    model = early
    if config.refit:
        model, _ = train(
            config,
            etl,
            tables,
            popularity,
            [*parts["train"], *parts["valid"]],
            seed,
            num_epochs=curve.best_epoch,
            checkpoint=checkpoint("refit"),
        )

    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_query_encoder(model, tables, writer.path / "query_encoder.onnx")
    item_IE = item_vectors(model, tables.items, popularity.at(etl.metrics["as_of"]))
    _write_vectors(writer, "item_vectors.parquet", etl.file("items.parquet"), item_IE)
    _write_vectors(writer, "user_vectors.parquet", etl.file("users.parquet"), user_vectors(model, tables))
    curve.write(writer.path / "learning_curve.json")
    (writer.path / "sources.json").write_text(
        json.dumps({name: asdict(report) for name, report in reports.items()}, indent=2) + "\n"
    )
    writer.metrics |= {
        "vocabulary": etl.metrics["vocabulary"],
        f"valid_recall_at_{config.recall_at}": max(epoch["recall"] for epoch in curve.epochs),
        "best_epoch": curve.best_epoch,
        "source_weights": dict(zip(stage.names, stage.merge.weights, strict=True)),
        "source_recall": {name: report.recall for name, report in reports.items()},
        "rows_per_second": curve.epochs[-1]["rows_per_second"],
        "temperature": float(model.temperature.detach()),
    }
    if checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)


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
    checkpoint: Checkpoint | None = None,
) -> tuple[TwoTower, LearningCurve]:
    """Train from scratch, or from a checkpoint of the same training; equal arguments give an equal model.

    Args:
        examples: parquet files of the etl stage.
        hidden: ids that the train part does not have, shown to the model as unseen.
        validation: stops training when its recall stops growing; None trains all epochs.
        num_epochs: instead of the config's max_epochs.
        checkpoint: where the training stands is kept there; it must be given for one training only.
    Returns: the averaged model in eval mode, and what each epoch reached.
    Raises: DivergedError.
    """
    num_epochs = num_epochs or config.max_epochs
    torch.manual_seed(seed)
    batches = aged_batches(etl, tables, examples, config.batch_size, seed)
    model = TwoTower(tables.schema, config.two_tower)
    first = next(batches.in_order())
    model.queries(first)
    model.items(first)  # Merlin's layers take their shapes from the first batch
    scored_items = ScoredItems(batches.column("item_row"), etl.metrics["num_items"], config.num_scored_items)
    loss = StepLoss(model, tables, scored_items, popularity, hidden, config)
    key = training_key(asdict(config), etl.content_hash, seed, num_epochs)
    weights = TrainedWeights(model, config)
    training = Training(config, batches, loss, weights, validation, num_epochs, checkpoint, key)
    return training.run(), training.curve


def _trained_before(
    moment: int,
    config: RetrievalConfig,
    etl: Artifact,
    tables: FeatureTables,
    popularity: PopularityTimeline,
    seed: int,
    num_epochs: int,
    checkpoint: Callable[[str], Checkpoint | None],
) -> TwoTower:
    """The model of an earlier day."""
    hidden = UnseenIds(etl, moment)
    with TemporaryDirectory(prefix="cascade-origin-") as folder:
        examples = examples_before(moment, etl, Path(folder))
        name = f"before_{moment}"
        return train(
            config,
            etl,
            tables,
            popularity,
            examples,
            seed,
            hidden=hidden,
            num_epochs=num_epochs,
            checkpoint=checkpoint(name),
        )[0]


@torch.no_grad()
def user_vectors(model: TwoTower, tables: FeatureTables) -> np.ndarray:
    """[U, E] float32 query vectors of the users as serving knows them, row u is user_row u."""
    chunks = torch.arange(len(tables.users["user_id"])).split(8_192)
    states = ({name: column[rows] for name, column in tables.users.items()} for rows in chunks)
    return torch.cat([model.query_vectors(state) for state in states]).numpy()


def _write_vectors(writer: ArtifactWriter, name: str, ids_from: Path, vectors: np.ndarray) -> None:
    raw_id = pq.read_table(ids_from, columns=["raw_id"])["raw_id"]
    pq.write_table(pa.table({"raw_id": raw_id, "vector": list_column(vectors)}), writer.path / name)
    writer.rows[name] = len(vectors)
