"""Stage `ranking`: trains the ranker on what retrieval proposed and exports it.

Parts: `model.safetensors`, `ranker.onnx`, `examples/{fitted,held_out,all}.parquet`, `learning_curve.json`.

The number of epochs is found with some users held out; the exported model is trained on all. Held-out users, not the
latest interactions: one user's lists resemble each other, and a model may know them by heart. Untrained, the model
keeps retrieval's order; where training does not improve on it for the held-out users, it stays untrained.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import cast

import numpy as np
import pyarrow.parquet as pq
import torch
from safetensors.torch import save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from tqdm import tqdm

from features.artifact import Artifact, ArtifactWriter
from features.batches import Batches, FeatureTables
from ranking.config import RankingConfig
from ranking.examples import source_names, write_examples
from ranking.export import example_batch, export_ranker
from ranking.losses import list_softmax
from ranking.pair_features import SCORES, ranker_schema
from ranking.ranker import Ranker


def run(config: RankingConfig, etl: Artifact, retrieval: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write the ranking artifact."""
    torch.set_num_threads(config.num_threads)
    tables, sources = FeatureTables(etl), source_names(retrieval)
    (writer.path / "examples").mkdir()
    parts = {name: writer.path / "examples" / f"{name}.parquet" for name in ("fitted", "held_out", "all")}
    everything = write_examples(config.negatives, etl, retrieval, seed, parts["all"])
    user = everything["user_row"].to_numpy()
    is_held_out_U = np.random.default_rng(seed).random(etl.metrics["num_users"]) < config.held_out_share
    pq.write_table(everything.filter(~is_held_out_U[user]), parts["fitted"])
    pq.write_table(everything.filter(is_held_out_U[user]), parts["held_out"])

    best, curve = 0, []
    if is_held_out_U[user].any() and not is_held_out_U[user].all():
        held_out = Batches([parts["held_out"]], tables, 1_024, seed)
        fitted = Batches([parts["fitted"]], tables, config.batch_size, seed)
        _, curve = train(config, tables, sources, fitted, seed, config.max_epochs, held_out)
        best = int(np.argmin([epoch["loss"] for epoch in curve]))
    whole = Batches([parts["all"]], tables, config.batch_size, seed)
    model, _ = train(config, tables, sources, whole, seed, best)

    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_ranker(model, tables, sources, writer.path / "ranker.onnx")
    (writer.path / "learning_curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    writer.metrics |= {
        "vocabulary": etl.metrics["vocabulary"],
        "best_epoch": best,
        "num_lists": len(everything),
        "held_out": curve[best] if curve else None,
        "held_out_retrieval_order": curve[0] if curve else None,
    }


def train(
    config: RankingConfig,
    tables: FeatureTables,
    sources: Sequence[str],
    batches: Batches,
    seed: int,
    num_epochs: int,
    held_out: Batches | None = None,
) -> tuple[Ranker, list[dict[str, float]]]:
    """Train from scratch; equal arguments give an equal model.

    Args:
        sources: names of the candidate sources.
        held_out: stops training when its loss stops falling; None trains all epochs.
    Returns: the averaged model in eval mode, and what it reached on `held_out` before the first epoch and after each.
    """
    torch.manual_seed(seed)
    model = Ranker(ranker_schema(tables.schema, sources), config.network)
    model.score_candidates(
        example_batch(tables.schema, sources)
    )  # Merlin's layers take their shapes from the first batch
    if batches.num_rows:
        model.set_score_scale({name: batches.column(name) for name in SCORES})
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging)).eval()
    kept = cast(Ranker, averaged.module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    curve = [evaluate(kept, held_out)] if held_out else []
    with tqdm(desc="ranking", unit=" lists", disable=None, leave=False) as progress:
        for epoch in range(num_epochs):
            for batch in batches.epoch(epoch):
                loss = (list_softmax(model.score_candidates(batch), batch["is_shown"]) * batch["weight"]).mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                averaged.update_parameters(model)
                progress.update(len(batch["user_row"]))
            if not held_out:
                continue
            curve.append(evaluate(kept, held_out))
            progress.set_postfix({name: f"{value:.4g}" for name, value in curve[-1].items()})
            if len(curve) - 1 - int(np.argmin([past["loss"] for past in curve])) >= config.patience:
                break
    return kept, curve


@torch.no_grad()
def evaluate(model: Ranker, batches: Batches) -> dict[str, float]:
    """Loss in nats, and the mean reciprocal rank of the taken item in its list, of a model in eval mode."""
    rows = []
    for batch in batches.in_order():
        score_BK = model.score_candidates(batch)
        better_BK = (score_BK >= score_BK[:, :1]) & (batch["is_shown"] > 0)
        rows.append(torch.stack([list_softmax(score_BK, batch["is_shown"]), 1 / better_BK.sum(1), batch["weight"]]))
    loss, reciprocal, weight = torch.cat(rows, dim=1)
    return {
        "loss": float((loss * weight).sum() / weight.sum()),
        "mrr": float((reciprocal * weight).sum() / weight.sum()),
    }
