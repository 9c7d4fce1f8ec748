"""EncodeQuery: user features -> query vector."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ensemble.onnx_model import OnnxModel
from ensemble.operators.operator import Columns, RequestOperator


class EncodeQuery(RequestOperator):
    """The two-tower model's query tower.

    Args:
        model: the retrieval stage's `query_encoder.onnx`.
    """

    outputs = {"query_vector": (np.float32, (None,))}  # noqa: RUF012

    def __init__(self, model: Path) -> None:
        super().__init__(**{"query_encoder.onnx": model})

    def run(self, columns: Columns) -> Columns:
        return {"query_vector": self.opened_model.run(columns)}

    def open(self, folder: Path) -> None:
        self.opened_model = OnnxModel(folder / "query_encoder.onnx")
