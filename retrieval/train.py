"""Stage `retrieval`: trains the two-tower model and writes its encoder and everybody's vectors.

Parts: `model.safetensors`, `query_encoder.onnx`, `item_vectors.parquet`, `user_vectors.parquet`, `learning_curve.json`,
`sources/` with the other candidate sources and their merge, `sources.json` with what validation said of them, and
`proposals.parquet` with `proposing_vectors.parquet`, from which the ranker learns; for a later model that starts from
these `accumulators.safetensors`, `trained_before/` with the models of earlier moments, `schema.json`,
`vocabulary.json`.

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
from safetensors.torch import load_file

from features.artifact import Artifact, ArtifactWriter
from features.batches import FeatureTables
from features.checkpoint import Checkpoint
from features.learned_from import METRIC, learned_before, lessons, take_over
from features.list_column import list_column
from retrieval.candidates import save_fitted, save_stage
from retrieval.config import IndexConfig, RetrievalConfig
from retrieval.export import export_query_encoder
from retrieval.fit_sources import Asked, fit_stage, past_of, refit
from retrieval.index import build
from retrieval.origins import Origin, earlier_moments, examples_before, stage_before
from retrieval.popularity import PopularityTimeline
from retrieval.proposals import write_proposals
from retrieval.sources import FITTED
from retrieval.trained_model import train, trained, untrained
from retrieval.training.warm_start import (
    COLD_EPOCHS,
    EARLIER,
    MODEL,
    TRAINED_BEFORE,
    Starts,
    save_model,
    write_origin,
)
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds, Validation

__all__ = ["run", "train", "user_vectors"]

# I items  U users  E width of the vectors


def run(
    config: RetrievalConfig,
    etl: Artifact,
    seed: int,
    writer: ArtifactWriter,
    checkpoints: Path | None = None,
    say: Callable[[str], None] = print,
    finished: Path | None = None,
) -> None:
    """Write the retrieval artifact.

    Args:
        checkpoints: a folder for the trainings' checkpoints, outside of the artifact's: a run that was killed goes on
            from there and writes the same artifact. It is removed when all parts are written. None: no checkpoints.
        say: gets a line when a checkpoint or an earlier model is taken up or passed over.
        finished: where the run's earlier retrieval artifact stands. If it learned from the same and only the moment up
            to which serving knows the users is another, its models are taken over; else `config.warm_start` may begin
            with them.
    Raises: DivergedError.
    """
    torch.set_num_threads(config.num_threads)
    learned_from = lessons(etl)
    if finished and (same := learned_before(finished, "retrieval", asdict(config), seed, learned_from)):
        say("retrieval  only the moment of serving changed: the models are taken over")
        return restate(config, same, etl, writer)

    def checkpoint(name: str) -> Checkpoint | None:
        return checkpoints and Checkpoint(checkpoints / f"{name}.safetensors", config.checkpoint_minutes, say)

    tables, popularity = FeatureTables(etl), PopularityTimeline(etl)
    parts = {name: etl.files(f"examples/{name}/") for name in ("train", "valid")}
    valid_from, test_from = etl.metrics["valid_from"], etl.metrics["test_from"]
    starts = Starts.of(config, finished, etl, lambda: untrained(tables, config), say)
    hidden = UnseenIds(etl)
    validation = Validation(etl, tables, popularity, hidden, config.recall_at, config.sources.max_users, seed)
    early, sums, curve = trained(
        config,
        etl,
        tables,
        popularity,
        parts["train"],
        seed,
        hidden=hidden,
        validation=validation,
        num_epochs=starts.most_epochs(valid_from),
        checkpoint=checkpoint("early"),
        start=starts.at(valid_from),
    )
    starts.choose(curve.best_epoch, valid_from)
    last, last_sums, trained_before = early, sums, valid_from
    item_IE, past = validation.item_vectors(early), past_of(etl, tables, config.sources)
    stage, reports = fit_stage(
        config.sources,
        past.before(valid_from),
        build(item_IE, IndexConfig(kind="flat")),
        Asked(validation.users(early), validation.relevant),
        config.recall_at,
        seed,
    )
    origins = [Origin(valid_from, test_from, early, stage, item_IE, hidden)]
    for moment in earlier_moments(etl, config.num_origins):
        unseen, end = UnseenIds(etl, moment), origins[-1].moment
        with TemporaryDirectory(prefix="cascade-origin-") as folder:
            model, sums_before, _ = trained(
                config,
                etl,
                tables,
                popularity,
                examples_before(moment, etl, Path(folder)),
                seed,
                hidden=unseen,
                num_epochs=starts.epochs(moment),
                checkpoint=checkpoint(f"before_{moment}"),
                start=starts.at(moment),
            )
        save_model(writer.path / EARLIER / str(moment), model, sums_before)
        origins.append(stage_before(moment, end, model, stage, past, tables, popularity, unseen, config.sources))
    write_proposals(origins, tables, etl, config, seed, writer)
    save_stage(writer.path / "sources", stage, refit(stage, past.before(etl.metrics["as_of"])))
    if config.refit:
        save_model(writer.path / EARLIER / str(valid_from), early, sums)
        last, last_sums, _ = trained(
            config,
            etl,
            tables,
            popularity,
            [*parts["train"], *parts["valid"]],
            seed,
            num_epochs=starts.epochs(test_from),
            checkpoint=checkpoint("refit"),
            start=starts.at(test_from),
        )
        trained_before = test_from

    save_model(writer.path, last, last_sums)
    write_origin(etl, writer)
    export_query_encoder(last, tables, writer.path / "query_encoder.onnx")
    write_vectors(last, tables, popularity, etl, writer)
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
        "temperature": float(last.temperature.detach()),
        METRIC: learned_from,
        TRAINED_BEFORE: trained_before,
        COLD_EPOCHS: starts.cold_epochs,
        "started_from": starts.used,
    }
    if checkpoints:
        shutil.rmtree(checkpoints, ignore_errors=True)


def restate(config: RetrievalConfig, earlier: Artifact, etl: Artifact, writer: ArtifactWriter) -> None:
    """Write the artifact with an earlier one's models, and what serving knows as of another moment."""
    tables, popularity = FeatureTables(etl), PopularityTimeline(etl)
    anew = ("item_vectors.parquet", "user_vectors.parquet", *(f"sources/{kind.name}.safetensors" for kind in FITTED))
    take_over(earlier, [name for name in earlier.manifest["parts"] if name not in anew], writer)
    past, settings = past_of(etl, tables, config.sources), json.loads(earlier.file("sources.json").read_text())
    fitted = [kind(**settings[kind.name]["settings"]) for kind in FITTED if kind.name in settings]
    past = past.before(etl.metrics["as_of"])
    save_fitted(writer.path / "sources", [source.fit(past) for source in fitted])
    model = untrained(tables, config)
    model.load_state_dict(load_file(earlier.file(MODEL)))
    write_vectors(model.eval(), tables, popularity, etl, writer)
    writer.metrics |= dict(earlier.metrics)


def write_vectors(
    model: TwoTower, tables: FeatureTables, popularity: PopularityTimeline, etl: Artifact, writer: ArtifactWriter
) -> None:
    """Everybody's vectors, as serving knows them."""
    item_IE = item_vectors(model, tables.items, popularity.at(etl.metrics["as_of"]))
    _write_vectors(writer, "item_vectors.parquet", etl.file("items.parquet"), item_IE)
    _write_vectors(writer, "user_vectors.parquet", etl.file("users.parquet"), user_vectors(model, tables))


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
