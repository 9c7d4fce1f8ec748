"""An ONNX model on the request path."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime

# onnxruntime multiplies a single row by another kernel than several rows, and threads may split rows so that one is
# left alone: both round differently. Two rows at least and one thread make a user's result independent of the others.
MIN_ROWS = 2
_NUM_THREADS = 1


class OnnxModel:
    """A session on one thread whose row b depends on the inputs' row b only, bit for bit.

    Args:
        output: which of the model's outputs; None for its first.
    """

    def __init__(self, path: Path, output: str | None = None) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = _NUM_THREADS
        options.inter_op_num_threads = _NUM_THREADS
        self._session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
        self.inputs = [node.name for node in self._session.get_inputs()]
        self._output = output or self._session.get_outputs()[0].name

    def run(self, columns: dict[str, np.ndarray], rows_per_user: int = 1) -> np.ndarray:
        """The output for the columns that it names; the first dimension is the same everywhere.

        Args:
            rows_per_user: rows that every matrix product of the model has for each of them.
        """
        given = {name: columns[name] for name in self.inputs}
        num_rows = len(next(iter(given.values())))
        if num_rows * rows_per_user < MIN_ROWS:
            given = {name: np.repeat(values, MIN_ROWS, axis=0) for name, values in given.items()}
        return self._session.run([self._output], given)[0][:num_rows]
