"""`cascade importance`: how much the exported ranker of a run relies on each feature."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from ensemble.onnx_model import OnnxModel
from features.artifact import Artifact
from features.batches import Batches, FeatureTables
from features.errors import CascadeError
from features.list_column import matrix_of
from pipelines.replaced_file import replaced
from ranking.clicks.checks import click_schema, label_name
from ranking.importance import Columns, Drop, candidate_importance, click_importance
from ranking.pair_features import is_per_candidate

# N impressions  B lists
_LISTS_AT_ONCE = 64


class ImportanceError(CascadeError, ValueError):
    """Importance cannot be measured with these settings."""


def importance_of_run(etl: Artifact, ranking: Artifact, num_repeats: int, max_rows: int, seed: int) -> dict[str, Any]:
    """Drops of every feature that the ranker reads, largest first.

    Impressions: on rows of the valid part, drawn at random. Candidates: on the ranker's lists, drawn at random; the
    exported model has seen them, so they say what it relies on, not what a model without the feature would reach.

    Args:
        num_repeats: shuffles of each feature, 2 or more.
        max_rows: most impressions, or lists.
    Raises: ImportanceError; ClickSchemaError.
    """
    if num_repeats < 2:
        raise ImportanceError(f"--repeats must be at least 2, got {num_repeats}: an interval needs two")
    if max_rows < 2:
        raise ImportanceError(f"--max-rows must be at least 2, got {max_rows}")
    model = OnnxModel(ranking.file("ranker.onnx"))
    is_clicks = etl.metrics.get("kind") == "impressions"
    of_kind = _of_clicks if is_clicks else _of_candidates
    drops, num_rows = of_kind(etl, ranking, model, num_repeats, max_rows, seed)
    first = "auc" if is_clicks else "ndcg@10"
    size = {drop.feature: drop.mean for drop in drops if drop.measure == first}
    drops = sorted(drops, key=lambda drop: -size[drop.feature])
    return {
        "ranking_content_hash": ranking.content_hash,
        "kind": "impressions" if is_clicks else "lists",
        "num_rows": num_rows,
        "num_repeats": num_repeats,
        "seed": seed,
        "drops": [
            {"feature": drop.feature, "measure": drop.measure, "mean": drop.mean, "error": drop.error} for drop in drops
        ],
    }


def write_importance(report: dict[str, Any], path: Path) -> None:
    with replaced(path) as building:
        building.write_text(json.dumps(report, indent=2) + "\n")


def print_importance(report: dict[str, Any]) -> None:
    """A row a feature, with the 95% interval of each drop."""
    measures = list(dict.fromkeys(drop["measure"] for drop in report["drops"]))
    names = {"log_loss": "rise of log loss"}
    table = Table("feature", *(names.get(measure, f"fall of {measure}") for measure in measures))
    rows: dict[str, list[str]] = {}
    for one in report["drops"]:
        drop = Drop(one["feature"], one["measure"], one["mean"], one["error"])
        low, high = drop.interval
        rows.setdefault(drop.feature, []).append(f"{drop.mean:.5f} [{low:.5f}, {high:.5f}]")
    for feature, cells in rows.items():
        table.add_row(feature, *cells)
    Console().print(table)


def _of_clicks(
    etl: Artifact, ranking: Artifact, model: OnnxModel, num_repeats: int, max_rows: int, seed: int
) -> tuple[list[Drop], int]:
    label = label_name(click_schema(etl))
    table = pa.concat_tables(
        [pq.read_table(path, columns=[*model.inputs, label]) for path in etl.files("examples/valid/")]
    )
    table = table.take(pa.array(_drawn(len(table), max_rows, seed)))
    columns = {name: _array(table[name]) for name in model.inputs}
    drops = click_importance(
        lambda given: model.run(dict(given)), columns, table[label].to_numpy(), model.inputs, num_repeats, seed
    )
    return drops, len(table)


def _of_candidates(
    etl: Artifact, ranking: Artifact, model: OnnxModel, num_repeats: int, max_rows: int, seed: int
) -> tuple[list[Drop], int]:
    lists = Batches([ranking.file("examples/all.parquet")], FeatureTables(etl), _LISTS_AT_ONCE, seed)
    kept = (*model.inputs, "is_taken", "is_shown", "user_row")
    batches = [{name: batch[name].numpy() for name in kept} for batch in lists.in_order()]
    rows = _drawn(lists.num_rows, max_rows, seed)
    columns = {name: np.concatenate([batch[name] for batch in batches])[rows] for name in kept}

    def scores(given: Columns) -> np.ndarray:
        parts = range(0, len(rows), _LISTS_AT_ONCE)
        width = columns["is_shown"].shape[1]
        return np.concatenate(
            [model.run({name: given[name][at : at + _LISTS_AT_ONCE] for name in model.inputs}, width) for at in parts]
        )

    drops = candidate_importance(
        scores,
        columns,
        columns["is_taken"],
        columns["is_shown"],
        columns["user_row"],
        model.inputs,
        is_per_candidate,
        num_repeats,
        seed,
    )
    return drops, len(rows)


def _drawn(num: int, most: int, seed: int) -> np.ndarray:
    """Rows in their order, all of them if they are few."""
    return np.sort(np.random.default_rng(seed).permutation(num)[:most])


def _array(column: pa.ChunkedArray) -> np.ndarray:
    return matrix_of(column) if pa.types.is_fixed_size_list(column.type) else column.to_numpy()
