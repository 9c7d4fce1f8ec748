"""Exporting a torch module to ONNX and holding it to torch's own result."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
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

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor | tuple[torch.Tensor, ...]:
        return self.function(dict(zip(self.names, tensors, strict=True)))


def export_onnx(
    module: nn.Module,
    function: Callable[[dict[str, torch.Tensor]], torch.Tensor | tuple[torch.Tensor, ...]],
    example: dict[str, torch.Tensor],
    dynamic_axes: dict[str, dict[int, str]],
    output: str | Sequence[str],
    path: Path,
) -> None:
    """Write `function(inputs)` as an ONNX graph whose inputs carry the names of the dict.

    Args:
        module: the module that owns the weights, in eval mode.
        function: takes a dict of tensors, returns one tensor, or a tuple of them.
        example: inputs to trace with; also checked against onnxruntime, to 1e-5 of the largest value, or of 1.
        dynamic_axes: as `torch.onnx.export` takes it.
        output: name of the output, or one for each.
    Raises: OnnxMismatchError if onnxruntime's result differs.
    """
    names, outputs = list(example), [output] if isinstance(output, str) else list(output)
    wrapped = _Named(module, function, names).eval()
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # the classic exporter warns of its own age on every call
        torch.onnx.export(
            wrapped,
            tuple(example.values()),
            str(path),
            input_names=names,
            output_names=outputs,
            dynamic_axes=dynamic_axes,
            opset_version=OPSET,
            dynamo=False,  # the new exporter fails on Merlin's blocks
        )
        computed = wrapped(*example.values())
    expected = computed if isinstance(computed, tuple) else (computed,)
    for name, ours, theirs in zip(outputs, expected, _run(path, example), strict=True):
        difference = np.abs(theirs - ours.numpy()).max(initial=0.0) / np.abs(ours.numpy()).max(initial=1.0)
        if not difference <= TOLERANCE:
            raise OnnxMismatchError(
                f"{path.name}: onnxruntime differs from torch in {name!r}, by {difference:.3g} of the largest value; "
                f"allowed is {TOLERANCE}"
            )


def _run(path: Path, inputs: dict[str, torch.Tensor]) -> list[np.ndarray]:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}
    return session.run(None, {name: tensor.numpy() for name, tensor in inputs.items() if name in wanted})
