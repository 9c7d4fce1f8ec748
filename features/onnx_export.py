"""Exporting a torch module to ONNX and holding it to torch's own result."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

OPSET = 17
TOLERANCE = 1e-5


class OnnxMismatchError(RuntimeError):
    """onnxruntime does not compute what torch computes."""


class _Named(nn.Module):
    """Positional tensors in, so that the exporter keeps the inputs' names and order."""

    def __init__(self, module: nn.Module, function: Callable, names: list[str]) -> None:
        super().__init__()
        self.module = module
        self.function = function
        self.names = names

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        return self.function(dict(zip(self.names, tensors, strict=True)))


def export_onnx(
    module: nn.Module,
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor],
    example: dict[str, torch.Tensor],
    dynamic_axes: dict[str, dict[int, str]],
    output: str,
    path: Path,
) -> None:
    """Write `function(inputs)` as an ONNX graph whose inputs carry the names of the dict.

    Args:
        module: the module that owns the weights, in eval mode.
        function: takes a dict of tensors, returns one tensor.
        example: inputs to trace with; also checked against onnxruntime, to 1e-5 of the largest value, or of 1.
        dynamic_axes: as `torch.onnx.export` takes it.
        output: name of the output.
    Raises: OnnxMismatchError if onnxruntime's result differs.
    """
    names = list(example)
    wrapped = _Named(module, function, names).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the classic exporter warns of its own age on every call
        torch.onnx.export(
            wrapped,
            tuple(example.values()),
            str(path),
            input_names=names,
            output_names=[output],
            dynamic_axes=dynamic_axes,
            opset_version=OPSET,
            dynamo=False,  # the new exporter fails on Merlin's blocks
        )
        expected = wrapped(*example.values()).numpy()
    difference = np.abs(_run(path, example) - expected).max(initial=0.0)
    difference /= np.abs(expected).max(initial=1.0)
    if not difference <= TOLERANCE:
        raise OnnxMismatchError(
            f"{path.name}: onnxruntime differs from torch by {difference:.3g} of the largest value, "
            f"allowed is {TOLERANCE}"
        )


def _run(path: Path, inputs: dict[str, torch.Tensor]) -> np.ndarray:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted})[0]
