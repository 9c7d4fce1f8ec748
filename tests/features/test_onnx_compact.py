"""Compact forms of ONNX graphs, against the formulas in NumPy and torch's own roundings."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnxruntime.quantization import QuantType, quantize_dynamic
from torch import nn

from features.onnx_compact import (
    MIN_LAYER_SIZE,
    TableForm,
    input_ranges,
    load,
    table_bytes,
    with_compact_tables,
    with_int8_layers,
)
from features.onnx_export import export_onnx

NUM_ROWS, DIM, WIDE, NARROW = 300, 24, 512, 8


class TwoLayers(nn.Module):
    """A table, a wide layer with ReLU and a narrow one without a bias of its own."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(NUM_ROWS, DIM)
        self.wide, self.narrow = nn.Linear(DIM, WIDE), nn.Linear(WIDE, NARROW)

    def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.narrow(torch.relu(self.wide(self.table(batch["id"]))))


def exported(path: Path, shape: tuple[int, ...]) -> tuple[TwoLayers, onnx.ModelProto]:
    module = TwoLayers().eval()
    axes = {name: {axis: f"n{axis}" for axis in range(len(shape))} for name in ("id", "out")}
    with torch.no_grad():
        export_onnx(module, module, {"id": torch.zeros(shape, dtype=torch.long)}, axes, "out", path)
    return module, load(path)


def run(model: onnx.ModelProto, ids: np.ndarray) -> np.ndarray:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, {"id": ids})[0]


def ids_of(*shape: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, NUM_ROWS, shape)


def rounded_rows(weight: np.ndarray) -> np.ndarray:
    scale = np.abs(weight).max(1, keepdims=True) / 127
    return np.round(weight / scale) * scale


ROUNDED: dict[TableForm, Callable[[np.ndarray], np.ndarray]] = {
    "fp16": lambda weight: torch.from_numpy(weight).half().float().numpy(),
    "bf16": lambda weight: torch.from_numpy(weight).bfloat16().float().numpy(),
    "int8": rounded_rows,
}


@torch.no_grad()
@pytest.mark.parametrize("form", ROUNDED)
def test_a_compact_table_gives_what_the_rounded_table_gives(tmp_path, form):
    module, model = exported(tmp_path / "m.onnx", (3,))
    compact = with_compact_tables(model, form)
    ids = ids_of(40)
    module.table.weight.copy_(torch.from_numpy(ROUNDED[form](module.table.weight.numpy()).astype(np.float32)))
    expected = module({"id": torch.from_numpy(ids)}).numpy()
    np.testing.assert_allclose(run(compact, ids), expected, atol=1e-5)
    assert not np.allclose(run(model, ids), expected, atol=1e-5) or form == "fp16"
    saved = table_bytes(model) - table_bytes(compact)
    per_weight = {"fp16": 2, "bf16": 2, "int8": 3}[form]
    scales = 4 * NUM_ROWS if form == "int8" else 0
    assert saved == pytest.approx(per_weight * NUM_ROWS * DIM - scales, abs=100)


@torch.no_grad()
@pytest.mark.parametrize("shape", [(40,), (8, 5)])  # the exporter writes Gemm for the one, MatMul and Add for the other
def test_an_int8_layer_is_the_integer_formula(tmp_path, shape):
    module, model = exported(tmp_path / "m.onnx", tuple(2 for _ in shape))
    ids = ids_of(*shape)
    ranges = input_ranges(model, [{"id": ids}])
    assert len(ranges) == 1 and WIDE * NARROW < MIN_LAYER_SIZE <= DIM * WIDE  # the narrow layer stays as it is
    read = module.table(torch.from_numpy(ids)).numpy()
    assert [*ranges.values()] == [(read.min(), read.max())]

    scale = (read.max() - read.min()) / 255
    zero = round(-read.min() / scale)
    whole = np.clip(np.round(read / np.float32(scale)) + zero, 0, 255) - zero
    weight = module.wide.weight.numpy()
    scale_H = np.abs(weight).max(1) / 127
    wide = whole @ np.round(weight / scale_H[:, None]).T * scale * scale_H + module.wide.bias.numpy()
    expected = module.narrow(torch.from_numpy(np.maximum(wide, 0)).float()).numpy()

    found = run(with_int8_layers(model, ranges), ids)
    np.testing.assert_allclose(found, expected, atol=1e-4)
    plain = run(model, ids)
    assert 0 < np.abs(found - plain).max() < 0.05 * np.abs(plain).max()


def test_what_lies_outside_the_calibrated_range_is_cut_off_at_it(tmp_path):
    module, model = exported(tmp_path / "m.onnx", (3,))
    norm = module.table.weight.detach().abs().amax(1)
    small, large = int(norm.argmin()), int(norm.argmax())
    compact = with_int8_layers(model, input_ranges(model, [{"id": np.array([small])}]))
    plain = run(model, np.array([small, large]))
    error = np.abs(run(compact, np.array([small, large])) - plain).max(1)
    assert error[0] < 0.02 * np.abs(plain).max() < error[1]


@pytest.mark.parametrize("shape", [(64,), (64, 3)])
def test_a_row_is_the_same_bit_for_bit_whoever_else_is_asked_for_and_dynamic_scales_would_break_that(tmp_path, shape):
    _, model = exported(tmp_path / "m.onnx", tuple(2 for _ in shape))
    ids = ids_of(*shape)
    forms = {form: with_compact_tables(model, form) for form in ROUNDED}
    forms["layers"] = with_int8_layers(model, input_ranges(model, [{"id": ids}]))
    forms["both"] = with_compact_tables(forms["layers"], "int8")
    for name, form in forms.items():
        alone = np.concatenate([run(form, ids[[row, row]])[:1] for row in range(len(ids))])
        assert np.array_equal(run(form, ids), alone), name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantize_dynamic(tmp_path / "m.onnx", tmp_path / "dynamic.onnx", weight_type=QuantType.QInt8)
    dynamic = load(tmp_path / "dynamic.onnx")
    alone = np.concatenate([run(dynamic, ids[[row, row]])[:1] for row in range(len(ids))])
    assert not np.array_equal(run(dynamic, ids), alone)


def test_a_layer_whose_result_is_read_twice_keeps_its_bias_apart(tmp_path):
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.layer = nn.Linear(32, 512, bias=False)
            self.bias = nn.Parameter(torch.randn(512))

        def forward(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
            product = self.layer(batch["x"])
            return (product + self.bias) * product

    module = Twice().eval()
    with torch.no_grad():
        export_onnx(
            module, module, {"x": torch.ones(2, 3, 32)}, {"x": {0: "n"}, "out": {0: "n"}}, "out", tmp_path / "m"
        )
    model, x = load(tmp_path / "m"), np.random.default_rng(0).normal(size=(5, 3, 32)).astype(np.float32)
    compact = with_int8_layers(model, input_ranges(model, [{"x": x}]))
    sessions = [onnxruntime.InferenceSession(one.SerializeToString()) for one in (model, compact)]
    plain, found = (session.run(None, {"x": x})[0] for session in sessions)
    assert 0 < np.abs(found - plain).max() < 0.02 * np.abs(plain).max()
