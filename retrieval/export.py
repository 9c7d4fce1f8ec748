"""The query tower as ONNX, for the request path."""

from __future__ import annotations

from pathlib import Path

import torch

from features.batches import FeatureTables
from features.onnx_export import export_onnx
from retrieval.two_tower import TwoTower


def export_query_encoder(model: TwoTower, tables: FeatureTables, path: Path) -> None:
    """Inputs: the USER features by name, [B] or [B, length]. Output: `query_vector` [B, E]."""
    names = model.query_inputs
    rows = torch.arange(min(64, len(tables.users["user_id"])))
    example = {name: tables.users[name][rows] for name in names}
    axes = {name: {0: "users"} for name in [*names, "query_vector"]}
    export_onnx(model, model.query_vectors, example, axes, "query_vector", path)
