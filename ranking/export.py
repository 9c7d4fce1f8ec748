"""The ranker as ONNX, for the request path: each user's side once, shared by its candidates."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from merlin.schema import Schema

from features.batches import Batch, FeatureTables
from features.onnx_export import export_onnx
from features.schema import list_length, num_categories
from ranking.pair_features import is_per_candidate, ranker_schema
from ranking.ranker import Ranker
from ranking.shared_user_side import SharedUserSide


def export_ranker(model: Ranker, tables: FeatureTables, sources: Sequence[str], path: Path) -> None:
    """Inputs by name: per-user features [B] or [B, length], per-candidate ones [B, K] or [B, K, length].
    Output: `score` [B, K].
    """
    axes = {name: {0: "users", 1: "candidates"} if is_per_candidate(name) else {0: "users"} for name in model.inputs}
    axes["score"] = {0: "users", 1: "candidates"}
    shared = SharedUserSide(model)
    export_onnx(shared, shared.score_candidates, example_batch(tables.schema, sources), axes, "score", path)


def example_batch(etl_schema: Schema, sources: Sequence[str], num_users: int = 3, num_candidates: int = 5) -> Batch:
    """Made-up inputs of `Ranker.score_candidates`, the same on every call."""
    generator = torch.Generator().manual_seed(0)
    example = {}
    for column in ranker_schema(etl_schema, sources):
        shape = [num_users, num_candidates] if is_per_candidate(column.name) else [num_users]
        if length := list_length(column):
            shape.append(length)
        if column.int_domain:
            example[column.name] = torch.randint(0, num_categories(column), shape, generator=generator)
        else:
            example[column.name] = torch.randn(shape, generator=generator)
    return example
