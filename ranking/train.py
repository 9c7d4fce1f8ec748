"""Stage `ranking`: trains the ranker on what retrieval proposed and exports it.

Parts: `model.safetensors`, `ranker.onnx`, `examples/all.parquet`, `learning_curve.json`.

Every user is held out once, and the ranker trained on the others: so the number of epochs is found, and what it gains
over retrieval's order. The exported model is trained on all lists, and departs from that order only as far as the gain
can be told from chance (`trusted_share`). Held-out users, not single lists: one user's lists resemble each other.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import numpy as np
import pyarrow as pa
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
from ranking.lists import sampled
from ranking.losses import CUT_OFF, LOSSES, discounts, ideal_gain
from ranking.pair_features import SCORES, ranker_schema
from ranking.ranker import Ranker

# B lists  K items of a list  E epochs
NDCG = f"ndcg@{CUT_OFF}"
READ_OF_RETRIEVAL = ("proposals.parquet", "proposing_vectors.parquet", "sources/merge.json")
"""Parts of the retrieval artifact that the ranker learns from."""
SURE = 1.96
"""Standard errors of a gain that is hardly chance."""
_LISTS_AT_ONCE = 64
"""Of which the losses of all pairs are in memory."""


def run(config: RankingConfig, etl: Artifact, retrieval: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write the ranking artifact.

    Raises: ExamplesError if the retrieval artifact's proposals are of another form.
    """
    torch.set_num_threads(config.num_threads)
    tables, sources = FeatureTables(etl), source_names(retrieval)
    (writer.path / "examples").mkdir()
    path = writer.path / "examples" / "all.parquet"
    lists = write_examples(config.negatives, etl, retrieval, seed, path)
    curve, gain_B = _held_out(config, tables, sources, lists, seed)
    best = int(np.argmax([epoch[NDCG] for epoch in curve])) if curve else 0
    share = trusted_share(gain_B, lists["user_row"].to_numpy()) if curve else 0.0
    model = untrained(config, tables, sources)
    if share:
        model, _ = train(config, tables, sources, Batches([path], tables, config.batch_size, seed), seed, best)
        model.trust(share)

    save_file(model.state_dict(), str(writer.path / "model.safetensors"))
    export_ranker(model, tables, sources, writer.path / "ranker.onnx")
    (writer.path / "learning_curve.json").write_text(json.dumps(curve, indent=2) + "\n")
    writer.metrics |= {
        "vocabulary": etl.metrics["vocabulary"],
        "best_epoch": best,
        "num_lists": len(lists),
        "trusted_share": share,
        "held_out": curve[best] if curve else None,
        "held_out_retrieval_order": curve[0] if curve else None,
    }


def trusted_share(gain_B: np.ndarray, user_B: np.ndarray) -> float:
    """How much of the learned departure from retrieval's order to keep: max(0, 1 - (SURE / t)^2).

    t is the mean gain over its standard error, a user's lists averaged first. A gain that could be chance, and any
    loss, keeps retrieval's order as it is: the next period differs from this one by more than its users do.

    Args:
        gain_B: what ranking gained over retrieval's order in each list, of users held out.
        user_B: whose list it is.
    Source: James & Stein, "Estimation with quadratic loss", 1961, the positive part, with a wider error.
    """
    _, place_B = np.unique(user_B, return_inverse=True)
    gain = np.bincount(place_B, gain_B) / np.bincount(place_B)
    error = gain.std(ddof=1) / np.sqrt(len(gain)) if len(gain) > 1 else 0.0
    if gain.mean() <= 0 or not error:
        return 0.0
    return float(max(0.0, 1 - (SURE * error / gain.mean()) ** 2))


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
        held_out: measured before the first epoch and after each.
    Returns: the averaged model in eval mode, and what it reached on `held_out` before the first epoch and after each.
    """
    model, per_list = _trained(config, tables, sources, batches, seed, num_epochs, held_out)
    return model, [{name: float(values.mean()) for name, values in epoch.items()} for epoch in per_list]


def untrained(config: RankingConfig, tables: FeatureTables, sources: Sequence[str]) -> Ranker:
    """A ranker that keeps retrieval's order, in eval mode."""
    model = Ranker(ranker_schema(tables.schema, sources), config.network)
    model.score_candidates(example_batch(tables.schema, sources))  # Merlin's layers take their shapes from a batch
    return model.eval()


@torch.no_grad()
def evaluate(model: Ranker, batches: Batches, loss: str) -> dict[str, np.ndarray]:
    """Of each list the loss and NDCG@10, over all its candidates, of a model in eval mode."""
    rows = []
    for batch in batches.in_order():
        score_BK, taken_BK = model.score_candidates(batch), batch["is_taken"]
        all_B = torch.ones(len(score_BK))
        gain_B = (discounts(score_BK, batch["is_shown"]) * taken_BK).sum(1)
        ndcg_B = gain_B / ideal_gain(batch["num_taken"])
        parts = zip(*(one.split(_LISTS_AT_ONCE) for one in (score_BK, taken_BK, batch["is_shown"], all_B)), strict=True)
        rows.append(torch.stack([torch.cat([LOSSES[loss](*part) for part in parts]), ndcg_B]))
    of_lists = torch.cat(rows, dim=1).numpy() if rows else np.empty((2, 0), np.float32)
    return {"loss": of_lists[0], NDCG: of_lists[1]}


def _held_out(
    config: RankingConfig, tables: FeatureTables, sources: Sequence[str], lists: pa.Table, seed: int
) -> tuple[list[dict[str, float]], np.ndarray]:
    """Means over all lists, each while its user was held out, before the first epoch and after each; and [B] what
    each list gained over retrieval's order after the epoch that is best for the other folds: the best epoch of the same
    lists would promise too much. Nothing where there are too few users to hold some out."""
    user_B = lists["user_row"].to_numpy()
    users = np.random.default_rng(seed).permutation(np.unique(user_B))
    num_folds = max(2, round(1 / config.held_out_share))
    if len(users) < 2 * num_folds:
        return [], np.zeros(len(lists))
    fold_of = {user: place % num_folds for place, user in enumerate(users)}
    fold_B = np.array([fold_of[user] for user in user_B])
    found: dict[str, np.ndarray] = {}
    num_epochs = _num_epochs(config, len(lists))
    for fold in range(num_folds):
        is_held_out_B = fold_B == fold
        with TemporaryDirectory(prefix="cascade-folds-") as folder:
            paths = [Path(folder) / "fitted.parquet", Path(folder) / "held_out.parquet"]
            for path, chosen_B in zip(paths, (~is_held_out_B, is_held_out_B), strict=True):
                pq.write_table(lists.filter(pa.array(chosen_B)), path)
            fitted, held_out = (
                Batches([path], tables, size, seed) for path, size in zip(paths, (config.batch_size, 256), strict=True)
            )
        _, curve = _trained(config, tables, sources, fitted, seed, num_epochs, held_out)
        for epoch, reached in enumerate(curve):
            for name, value_b in reached.items():
                found.setdefault(name, np.zeros((num_epochs + 1, len(lists))))[epoch, is_held_out_B] = value_b
    means = [
        {name: float(value_EB[epoch].mean()) for name, value_EB in found.items()} for epoch in range(num_epochs + 1)
    ]
    gain_EB, gain_B = found[NDCG] - found[NDCG][0], np.zeros(len(lists))
    for fold in range(num_folds):
        is_held_out_B = fold_B == fold
        best = int(gain_EB[:, ~is_held_out_B].mean(1).argmax())
        gain_B[is_held_out_B] = gain_EB[best, is_held_out_B]
    return means, gain_B


def _num_epochs(config: RankingConfig, num_lists: int) -> int:
    """Passes over so many lists."""
    steps_per_epoch = -(-num_lists // config.batch_size)
    return max(1, min(config.max_epochs, config.max_steps // steps_per_epoch))


def _trained(
    config: RankingConfig,
    tables: FeatureTables,
    sources: Sequence[str],
    batches: Batches,
    seed: int,
    num_epochs: int,
    held_out: Batches | None,
) -> tuple[Ranker, list[dict[str, np.ndarray]]]:
    torch.manual_seed(seed)
    generator = torch.Generator().manual_seed(seed)
    model = untrained(config, tables, sources).train()
    if batches.num_rows:
        model.set_score_scale({name: batches.column(name) for name in SCORES})
    averaged = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(config.averaging)).eval()
    kept = cast(Ranker, averaged.module)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=config.weight_decay)
    loss_of = LOSSES[config.loss]
    curve = [evaluate(kept, held_out, config.loss)] if held_out else []
    with tqdm(desc="ranking", unit=" lists", disable=None, leave=False) as progress:
        for epoch in range(num_epochs):
            for whole in batches.epoch(epoch):
                batch, rate_B = sampled(whole, config.negatives.num_negatives, generator)
                loss_B = loss_of(model.score_candidates(batch), batch["is_taken"], batch["is_shown"], rate_B)
                optimizer.zero_grad()
                loss_B.mean().backward()
                optimizer.step()
                averaged.update_parameters(model)
                progress.update(len(loss_B))
            if not held_out:
                continue
            curve.append(evaluate(kept, held_out, config.loss))
            progress.set_postfix({name: f"{values.mean():.4g}" for name, values in curve[-1].items()})
    return kept, curve
