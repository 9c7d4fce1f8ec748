"""The ranker as ONNX, for the request path: each user's side once, shared by its candidates."""

from __future__ import annotations

from pathlib import Path

import torch

from features.batches import FeatureTables
from features.onnx_export import export_onnx
from features.schema import list_length
from ranking.dlrm import Dlrm, is_per_candidate, ranker_schema


def export_ranker(model: Dlrm, tables: FeatureTables, path: Path) -> None:
    """Inputs by name: per-user features [B] or [B, length], per-candidate ones [B, K] or [B, K, length].
    Output: `score` [B, K] logits.
    """
    generator = torch.Generator().manual_seed(0)
    num_users, num_candidates = 3, 5
    example, axes = {}, {"score": {0: "users", 1: "candidates"}}
    for column in ranker_schema(tables.schema):
        shape = [num_users, num_candidates] if is_per_candidate(column.name) else [num_users]
        if length := list_length(column):
            shape.append(length)
        if column.int_domain:
            example[column.name] = torch.randint(0, int(column.int_domain.max) + 1, shape, generator=generator)
        else:
            example[column.name] = torch.randn(shape, generator=generator)
        axes[column.name] = {0: "users", 1: "candidates"} if is_per_candidate(column.name) else {0: "users"}
    export_onnx(model, model.score_candidates, example, axes, "score", path)
