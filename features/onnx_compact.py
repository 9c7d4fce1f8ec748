"""Compact forms of an exported ONNX graph: tables in 16 or 8 bits, layers that multiply whole numbers.

- Tables: what is looked up is widened to float32 behind the look-up, so only the rows that a request needs.
- Layers: y = (q_x - z) q_W s_x s_W + b with q_x and q_W of 8 bits, and s_W for each output. The scale of the inputs is
  fixed, from the range that they had in calibration batches: one taken from the rows at hand would make a row's result
  depend on the others of its call.

Source: Jacob et al., "Quantization and training of neural networks for efficient integer-arithmetic-only inference",
CVPR 2018; tables with a scale a row: Guan et al., "Post-training 4-bit quantization on embedding tables", 2019.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import onnxruntime
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

# R rows of a table  D embedding  X inputs  H outputs of a layer

TableForm = Literal["fp32", "fp16", "bf16", "int8"]
LayerForm = Literal["fp32", "int8"]
_MIDDLE = 128
"""The byte that stands for a weight of 0."""
MIN_LAYER_SIZE = 8_192
"""Weights of the smallest layer that is turned to whole numbers: smaller ones take longer to convert than they save."""
MIN_TABLE_SIZE = 1_024
"""Weights of the smallest table that is made smaller."""
_CONTRIB = helper.make_opsetid("com.microsoft", 1)
Feed = Mapping[str, np.ndarray]


def with_compact_tables(model: ModelProto, form: TableForm) -> ModelProto:
    """A copy whose embedding tables are stored in another form.

    Args:
        form: fp16 and bf16 halve them; int8 is a whole number and a float32 scale per row.
    """
    model = _copied(model)
    if form == "fp32":
        return model
    graph, sources = model.graph, _constants(model)
    replaced: set[str] = set()
    nodes: list[NodeProto] = []
    for node in graph.node:
        table = sources.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or table.data_type != TensorProto.FLOAT or len(table.dims) != 2 or not _is_of_rows(node):
            nodes.append(node)
            continue
        if table.dims[0] * table.dims[1] < MIN_TABLE_SIZE:
            nodes.append(node)
            continue
        name = node.input[0]
        if name not in replaced:
            replaced.add(name)
            graph.initializer.extend(_table_in(form, name, numpy_helper.to_array(table)))
        nodes += _look_up(form, node, name)
    _set_nodes(model, nodes)
    return _without_unused(model)


def with_int8_layers(model: ModelProto, ranges: Mapping[str, tuple[float, float]]) -> ModelProto:
    """A copy whose larger layers multiply whole numbers.

    Args:
        ranges: of `input_ranges`, for the same model.
    """
    model = _copied(model)
    constants, taken = _constants(model), set()
    readers: dict[str, list[NodeProto]] = {}
    for node in model.graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    outputs = {value.name for value in model.graph.output}
    quantized: set[str] = set()
    nodes: list[NodeProto] = []
    for node in model.graph.node:
        if id(node) in taken:
            continue
        weight_XH = _weight(node, constants)
        if weight_XH is None:
            nodes.append(node)
            continue
        bias, result = (node.input[2] if len(node.input) > 2 else ""), node.output[0]
        following = readers.get(result, [])
        if not bias and len(following) == 1 and result not in outputs:
            bias, result = _added(following[0], result, constants)
            if bias:
                taken.add(id(following[0]))
        nodes += _int8_layer(model, node, weight_XH, bias, result, ranges[node.input[0]], quantized)
    _set_nodes(model, nodes)
    if _CONTRIB.domain not in {one.domain for one in model.opset_import}:
        model.opset_import.append(_CONTRIB)
    return _without_unused(model)


def input_ranges(model: ModelProto, feeds: Iterable[Feed]) -> dict[str, tuple[float, float]]:
    """Least and largest value of what each larger layer reads, over calibration batches."""
    constants = _constants(model)
    names = list(dict.fromkeys(node.input[0] for node in model.graph.node if _weight(node, constants) is not None))
    watched = _copied(model)
    del watched.graph.output[:]
    watched.graph.output.extend(helper.make_empty_tensor_value_info(name) for name in names)
    ranges: dict[str, tuple[float, float]] = {}
    if not names:
        return ranges
    session = onnxruntime.InferenceSession(watched.SerializeToString(), providers=["CPUExecutionProvider"])
    wanted = {node.name for node in session.get_inputs()}
    for feed in feeds:
        for name, values in zip(names, session.run(None, {one: feed[one] for one in wanted}), strict=True):
            low, high = ranges.get(name, (0.0, 0.0))
            ranges[name] = min(low, float(values.min(initial=0))), max(high, float(values.max(initial=0)))
    return ranges


def table_bytes(model: ModelProto) -> int:
    """Bytes of all constants, which is what a session holds in memory of the model."""
    return sum(tensor.ByteSize() for tensor in _constants(model).values())


def load(path: Path) -> ModelProto:
    return onnx.load(str(path))


def _copied(model: ModelProto) -> ModelProto:
    copy = ModelProto()
    copy.CopyFrom(model)
    return copy


def _constants(model: ModelProto) -> dict[str, TensorProto]:
    return {tensor.name: tensor for tensor in model.graph.initializer}


def _is_of_rows(gather: NodeProto) -> bool:
    return all(attribute.i == 0 for attribute in gather.attribute if attribute.name == "axis")


def _table_in(form: TableForm, name: str, weight_RD: np.ndarray) -> list[TensorProto]:
    if form == "fp16":
        return [numpy_helper.from_array(weight_RD.astype(np.float16), f"{name}.fp16")]
    if form == "bf16":
        return [helper.make_tensor(f"{name}.bf16", TensorProto.BFLOAT16, weight_RD.shape, _bf16_bytes(weight_RD), True)]
    scale_R1 = np.maximum(np.abs(weight_RD).max(1, keepdims=True) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    whole_RD = np.round(weight_RD / scale_R1).astype(np.int8)
    return [
        numpy_helper.from_array(whole_RD, f"{name}.int8"),
        numpy_helper.from_array(scale_R1, f"{name}.row_scale"),
    ]


def _bf16_bytes(weight: np.ndarray) -> bytes:
    """The upper halves of float32, rounded to the nearest, ties to even."""
    bits = np.ascontiguousarray(weight, np.float32).view(np.uint32)
    return ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype("<u2").tobytes()


def _look_up(form: TableForm, gather: NodeProto, name: str) -> list[NodeProto]:
    result, rows = gather.output[0], gather.input[1]
    stored, wide = f"{result}.{form}", f"{result}.wide"
    found = helper.make_node("Gather", [f"{name}.{form}", rows], [stored], axis=0)
    if form != "int8":
        return [found, helper.make_node("Cast", [stored], [result], to=TensorProto.FLOAT)]
    return [
        found,
        helper.make_node("Gather", [f"{name}.row_scale", rows], [f"{result}.row_scale"], axis=0),
        helper.make_node("Cast", [stored], [wide], to=TensorProto.FLOAT),
        helper.make_node("Mul", [wide, f"{result}.row_scale"], [result]),
    ]


def _weight(node: NodeProto, constants: Mapping[str, TensorProto]) -> np.ndarray | None:
    """[X, H] of a layer that is worth it; None for any other node."""
    if node.op_type not in ("Gemm", "MatMul") or node.input[1] not in constants:
        return None
    tensor = constants[node.input[1]]
    if tensor.data_type != TensorProto.FLOAT or len(tensor.dims) != 2 or np.prod(tensor.dims) < MIN_LAYER_SIZE:
        return None
    told = {one.name: helper.get_attribute_value(one) for one in node.attribute}
    if told.get("transA", 0) or told.get("alpha", 1.0) != 1 or told.get("beta", 1.0) != 1:
        return None
    weight = numpy_helper.to_array(tensor)
    return weight.T if told.get("transB", 0) else weight


def _added(node: NodeProto, result: str, constants: Mapping[str, TensorProto]) -> tuple[str, str]:
    """The bias that a node adds to a layer's result, and what then stands in its place; "" if it does not."""
    if node.op_type == "Add":
        other = node.input[1] if node.input[0] == result else node.input[0]
        if other in constants and len(constants[other].dims) == 1:
            return other, node.output[0]
    return "", result


def _int8_layer(
    model: ModelProto,
    node: NodeProto,
    weight_XH: np.ndarray,
    bias: str,
    result: str,
    value_range: tuple[float, float],
    quantized: set[str],
) -> list[NodeProto]:
    low, high = value_range
    scale = max((high - low) / 255, float(np.finfo(np.float32).tiny))
    zero = int(np.clip(round(-low / scale), 0, 255))
    scale_H = np.maximum(np.abs(weight_XH).max(0) / 127, np.finfo(np.float32).tiny).astype(np.float32)
    # Both sides unsigned: with signed weights processors without VNNI add pairs in 16 bits, which overflow.
    whole_XH = (np.round(weight_XH / scale_H) + _MIDDLE).astype(np.uint8)
    source, layer = node.input[0], f"{result}.int8"
    model.graph.initializer.extend(
        [
            numpy_helper.from_array(whole_XH, f"{layer}.weight"),
            numpy_helper.from_array(scale_H, f"{layer}.weight_scale"),
            numpy_helper.from_array(np.array(_MIDDLE, np.uint8), f"{layer}.weight_zero"),
        ]
    )
    nodes = []
    if source not in quantized:  # two layers may read the same
        quantized.add(source)
        model.graph.initializer.extend(
            [
                numpy_helper.from_array(np.array(scale, np.float32), f"{source}.scale"),
                numpy_helper.from_array(np.array(zero, np.uint8), f"{source}.zero"),
            ]
        )
        read = [source, f"{source}.scale", f"{source}.zero"]
        nodes.append(helper.make_node("QuantizeLinear", read, [f"{source}.uint8"]))
    read = [
        f"{source}.uint8",
        f"{layer}.weight",
        f"{source}.scale",
        f"{layer}.weight_scale",
        f"{source}.zero",
        f"{layer}.weight_zero",
        bias,
    ]
    nodes.append(helper.make_node("MatMulIntegerToFloat", read, [result], domain=_CONTRIB.domain))
    return nodes


def _set_nodes(model: ModelProto, nodes: list[NodeProto]) -> None:
    kept = [NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del model.graph.node[:]
    model.graph.node.extend(kept)


def _without_unused(model: ModelProto) -> ModelProto:
    used = {name for node in model.graph.node for name in node.input}
    kept = [tensor for tensor in model.graph.initializer if tensor.name in used]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    return model
