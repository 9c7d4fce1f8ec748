"""Requests that no honest client sends: a good one in the wire's form, with up to three things wrong with it.

Everything is drawn from the generator that is passed in, so that a seed and a number name a request for good.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Callable
from typing import Any

import numpy as np
from tritonclient.grpc import service_pb2

MODEL = "cascade"
LISTS = ("exclude", "allow")
INT_EXTREMES = (0, -1, 1, 1000, 1001, 2**31 - 1, -(2**31), 2**63 - 1, -(2**63))
NUMBER_TEXTS = ("nan", "inf", "-inf", "1e999", "-0.0", "1e-400", "9" * 5000, "0x10", "1_0", "", " ", "null", "\0", "１")
WORDS = (
    "",
    "user_id",
    "k",
    "exclude",
    "\0",
    "é",
    "\u202e",
    "\U0001f600",
    "../../etc/passwd",
    "%s%n",
    "'; --",
    "a" * 300,
)
RAW_IDS = (
    b"",
    b"\0",
    b"\xff\xfe",
    b"\xed\xa0\x80",  # half a surrogate pair
    b"\xf4\x90\x80\x80",  # beyond Unicode
    "\U0001f600".encode() * 64,
    b"a" * 256,
    b"a" * 257,
    b"a" * 100_000,
    b"\n",
    b"nan",
)
OUTPUTS = ("item_ids", "scores", "propensities", "source", "candidate_ids", "ranked_ids")
NUMBER_OUTPUTS = ("scores", "propensities")
Message = Any  # service_pb2.ModelInferRequest, which protobuf makes at run time


def packed(raws: list[bytes]) -> bytes:
    return b"".join(struct.pack("<I", len(raw)) + raw for raw in raws)


def good_request(users: list[bytes], k: int = 3) -> Message:
    """A request that the server must answer."""
    size = len(users)
    message = service_pb2.ModelInferRequest(model_name=MODEL)
    for name, kind, shape, raw in (
        ("user_id", "BYTES", [size, 1], packed(users)),
        ("k", "INT32", [size, 1], np.full(size, k, "<i4").tobytes()),
        ("exclude", "BYTES", [size, 2], packed([b"x", b""] * size)),
        ("timestamp", "INT64", [size, 1], np.full(size, -1, "<i8").tobytes()),
    ):
        message.inputs.add(name=name, datatype=kind, shape=shape)
        message.raw_input_contents.append(raw)
    for name in OUTPUTS[:4]:
        message.outputs.add(name=name)
    return message


def bad_request(rng: np.random.Generator) -> Message:
    """A request with one to three things wrong with it; now and then they cancel out and it is good after all."""
    message = good_request([f"user-{number}".encode() for number in rng.integers(0, 50, rng.integers(1, 9))])
    for _ in range(rng.integers(1, 4)):
        MUTATIONS[rng.integers(len(MUTATIONS))](message, rng)
    _spare_text_outputs(message)
    return message


def _spare_text_outputs(message: Message) -> None:
    """Triton 2.51 divides by an element's size to classify, and a text has none: it ends (docs/reliability.md)."""
    for output in message.outputs:
        if output.name not in NUMBER_OUTPUTS:
            output.parameters.pop("classification", None)


def bad_bytes(rng: np.random.Generator) -> bytes:
    """A bad request as bytes; one in ten is damaged below the level of protobuf."""
    raw = bad_request(rng).SerializeToString()
    if rng.random() < 0.1:
        flipped = bytearray(raw)
        for place in rng.integers(0, len(raw), rng.integers(1, 9)):
            flipped[place] = rng.integers(256)
        raw = bytes(flipped[: rng.integers(1, len(raw) + 1)])
    return raw


def bad_json(rng: np.random.Generator) -> bytes:
    """A body for HTTP: a good one with values that JSON allows and the protocol does not, or no JSON at all."""
    size = int(rng.integers(1, 5))
    body: Any = {
        "inputs": [
            {"name": "user_id", "datatype": "BYTES", "shape": [size, 1], "data": ["ann"] * size},
            {"name": "k", "datatype": "INT32", "shape": [size, 1], "data": [3] * size},
            {"name": "exclude", "datatype": "BYTES", "shape": [size, 1], "data": ["x"] * size},
        ],
        "outputs": [{"name": "item_ids"}, {"name": "source"}],
    }
    for _ in range(rng.integers(1, 4)):
        body = _with_odd_value(body, rng)
    text = json.dumps(_without_known_crash(body))
    if rng.random() < 0.3:
        text = text[: rng.integers(len(text) + 1)]
    raw = text.encode("utf-8", "surrogatepass")
    if rng.random() < 0.1:
        raw = raw.replace(b"ann", b"\xff\xfe\xed\xa0")
    return raw


def _without_known_crash(node: Any) -> Any:
    """The body with shapes cut at 999.

    Triton 2.51 makes room for what a number's shape claims before it looks at the data, and ends where there is none
    (docs/reliability.md). The test of serving.security.http_inference sends that.
    """
    if isinstance(node, list):
        return [_without_known_crash(value) for value in node]
    if not isinstance(node, dict):
        return node
    kept = {key: _without_known_crash(value) for key, value in node.items()}
    if isinstance(shape := kept.get("shape"), list):
        kept["shape"] = [min(value, 999) if type(value) is int else value for value in shape]
    return kept


def _with_odd_value(body: Any, rng: np.random.Generator) -> Any:
    odd = [
        None,
        True,
        -1,
        0,
        2**31,
        2**63,
        -(2**70),
        1e308,
        float("nan"),
        float("inf"),
        "",
        "\0",
        "\ud800",
        [],
        [[]],
        {},
    ]
    odd += ["BYTES", "FP32", "a" * 70_000, [[[["deep"]]]], {"name": "user_id"}, [3.5], ["ann", None, 7], {"": {}}]
    deep: Any = "x"
    for _ in range(60):
        deep = [deep]
    odd += [deep, {"parameters": {"seed": -1}}]
    spots: list[tuple[Any, Any]] = []

    def walk(node: Any) -> None:
        for key, value in list(node.items() if isinstance(node, dict) else enumerate(node)):
            spots.append((node, key))
            if isinstance(value, (dict, list)):
                walk(value)

    if isinstance(body, (dict, list)) and body:
        walk(body)
    if not spots:
        return body
    node, key = spots[rng.integers(len(spots))]
    what = rng.integers(4)
    if what == 0 and isinstance(node, dict):
        del node[key]
    elif what == 1 and isinstance(node, dict):
        node[WORDS[rng.integers(len(WORDS))]] = odd[rng.integers(len(odd))]
    elif what == 2 and isinstance(node, list):
        node.append(odd[rng.integers(len(odd))])
    else:
        node[key] = odd[rng.integers(len(odd))]
    return body


def _some_input(message: Message, rng: np.random.Generator) -> int | None:
    return int(rng.integers(len(message.inputs))) if len(message.inputs) else None


def _shape(message: Message, rng: np.random.Generator) -> None:
    if (place := _some_input(message, rng)) is None:
        return
    odd = ([], [0], [0, 1], [-1, 1], [1], [1, 1, 1], [65, 1], [2**31, 1], [2**62, 4], [2**63 - 1, 2**63 - 1], [1, 0])
    del message.inputs[place].shape[:]
    message.inputs[place].shape.extend(odd[rng.integers(len(odd))])


def _datatype(message: Message, rng: np.random.Generator) -> None:
    if (place := _some_input(message, rng)) is None:
        return
    odd = ("", "BYTES", "INT32", "INT64", "FP32", "FP16", "BF16", "BOOL", "UINT8", "bytes", "NOTHING", "\0", "é" * 999)
    message.inputs[place].datatype = odd[rng.integers(len(odd))]


def _drop(message: Message, rng: np.random.Generator) -> None:
    if (place := _some_input(message, rng)) is None:
        return
    del message.inputs[place]
    if place < len(message.raw_input_contents) and rng.random() < 0.7:
        del message.raw_input_contents[place]


def _repeat(message: Message, rng: np.random.Generator) -> None:
    if (place := _some_input(message, rng)) is None or place >= len(message.raw_input_contents):
        return
    message.inputs.add().CopyFrom(message.inputs[place])
    message.raw_input_contents.append(message.raw_input_contents[place])


def _rename(message: Message, rng: np.random.Generator) -> None:
    if (place := _some_input(message, rng)) is not None:
        message.inputs[place].name = WORDS[rng.integers(len(WORDS))]


def _ids(message: Message, rng: np.random.Generator) -> None:
    """Other ids, of the right number or of another."""
    if not len(message.inputs) or not len(message.raw_input_contents):
        return
    shape = message.inputs[0].shape
    count = max(min(int(np.prod(list(shape) or [1])), 64) + (int(rng.integers(-1, 2)) if rng.random() < 0.2 else 0), 0)
    odd = [RAW_IDS[rng.integers(len(RAW_IDS))] if rng.random() < 0.5 else rng.bytes(6) for _ in range(count)]
    message.raw_input_contents[0] = packed(odd)


def _number(message: Message, rng: np.random.Generator) -> None:
    for place, tensor in enumerate(message.inputs):
        if tensor.name in ("k", "timestamp") and place < len(message.raw_input_contents) and rng.random() < 0.6:
            kind = "<i4" if tensor.datatype == "INT32" else "<i8"
            width = int(kind[-1])
            values = rng.choice(INT_EXTREMES, max(len(message.raw_input_contents[place]) // width, 1))
            low, high = np.iinfo(kind).min, np.iinfo(kind).max
            message.raw_input_contents[place] = np.clip(values, low, high).astype(kind).tobytes()


def _long_list(message: Message, rng: np.random.Generator) -> None:
    """An exclude or allow list up to and over the limit."""
    name = LISTS[rng.integers(2)]
    width = int(rng.choice([1, 100, 9_999, 10_000, 10_001, 30_000]))
    raw = packed([b"item-%d" % number for number in range(width)])
    for place, tensor in enumerate(message.inputs):
        if tensor.name == name and place < len(message.raw_input_contents):
            size = max(len(message.inputs[0].shape) and message.inputs[0].shape[0], 1)
            del tensor.shape[:]
            tensor.shape.extend([min(size, 8), width])
            message.raw_input_contents[place] = raw * min(size, 8)
            return
    message.inputs.add(name=name, datatype="BYTES", shape=[1, width])
    message.raw_input_contents.append(raw)


def _raw(message: Message, rng: np.random.Generator) -> None:
    """Contents that do not fit the shape."""
    if not len(message.raw_input_contents):
        return
    place = int(rng.integers(len(message.raw_input_contents)))
    raw = message.raw_input_contents[place]
    odd = (
        b"",
        raw[: len(raw) // 2],
        raw[:-1],
        raw + b"\0",
        raw * 3,
        struct.pack("<I", 2**32 - 1) + raw[4:],
        struct.pack("<I", 2**31) + raw[4:],
        struct.pack("<I", 0) * 3,
        rng.bytes(int(rng.integers(1, 64))),
    )
    message.raw_input_contents[place] = odd[rng.integers(len(odd))]


def _count(message: Message, rng: np.random.Generator) -> None:
    """More or fewer contents than inputs."""
    if rng.random() < 0.5 and len(message.raw_input_contents):
        del message.raw_input_contents[int(rng.integers(len(message.raw_input_contents))) :]
    else:
        message.raw_input_contents.append(rng.bytes(4))


def _typed(message: Message, rng: np.random.Generator) -> None:
    """Typed contents, instead of raw ones or beside them, of the wrong kind and number."""
    if (place := _some_input(message, rng)) is None:
        return
    if rng.random() < 0.7:
        del message.raw_input_contents[:]
    contents = message.inputs[place].contents
    what = rng.integers(5)
    count = int(rng.choice([0, 1, 2, 8, 1000]))
    if what == 0:
        contents.bytes_contents.extend([RAW_IDS[rng.integers(len(RAW_IDS))]] * count)
    elif what == 1:
        contents.int_contents.extend([int(np.clip(rng.choice(INT_EXTREMES), -(2**31), 2**31 - 1))] * count)
    elif what == 2:
        contents.int64_contents.extend([int(rng.choice(INT_EXTREMES))] * count)
    elif what == 3:
        contents.fp32_contents.extend([float("nan"), float("inf")] * count)
    else:
        contents.bool_contents.extend([True] * count)


def _parameter(message: Message, rng: np.random.Generator) -> None:
    names = ("seed", "temperature", "diversity", "timeout_ms", "priority", "timeout", "sequence_id", "sequence_start")
    names += ("binary_data_output", "triton_enable_empty_final_response", *WORDS)
    parameter = message.parameters[names[rng.integers(len(names))]]
    what = rng.integers(5)
    if what == 0:
        parameter.int64_param = int(rng.choice(INT_EXTREMES))
    elif what == 1:
        parameter.string_param = NUMBER_TEXTS[rng.integers(len(NUMBER_TEXTS))]
    elif what == 2:
        parameter.bool_param = True
    elif what == 3:
        parameter.double_param = float(rng.choice([0.5, -1, 1e308, np.nan, np.inf]))
    else:
        parameter.uint64_param = int(rng.choice([0, 7])) or 2**64 - 1


def _of_tensor(message: Message, rng: np.random.Generator) -> None:
    """Parameters of a tensor: Triton's shared memory and classification among them."""
    names = ("shared_memory_region", "shared_memory_byte_size", "shared_memory_offset", "classification", "binary_data")
    tensors = message.inputs if rng.random() < 0.5 else message.outputs
    if not len(tensors):
        return
    parameter = tensors[int(rng.integers(len(tensors)))].parameters[names[rng.integers(len(names))]]
    if rng.random() < 0.5:
        parameter.int64_param = int(rng.choice(INT_EXTREMES))
    else:
        parameter.string_param = WORDS[rng.integers(len(WORDS))]


def _outputs(message: Message, rng: np.random.Generator) -> None:
    what = rng.integers(4)
    if what == 0:
        del message.outputs[:]
    elif what == 1:
        message.outputs.add(name=WORDS[rng.integers(len(WORDS))])
    elif what == 2:
        message.outputs.add(name=OUTPUTS[rng.integers(len(OUTPUTS))])
    else:
        for _ in range(200):
            message.outputs.add(name="source")


def _envelope(message: Message, rng: np.random.Generator) -> None:
    what = rng.integers(3)
    if what == 0:
        message.model_version = ("99", "-1", "x", "1" * 400, "\0")[rng.integers(5)]
    elif what == 1:
        message.model_name = WORDS[rng.integers(len(WORDS))]
    else:
        message.id = ("a" * 128, "a" * 129, "a" * 1_000_000, "\0", "é" * 100, "{}")[rng.integers(6)]


MUTATIONS: list[Callable[[Message, np.random.Generator], None]] = [
    _shape,
    _datatype,
    _drop,
    _repeat,
    _rename,
    _ids,
    _number,
    _long_list,
    _raw,
    _count,
    _typed,
    _parameter,
    _of_tensor,
    _outputs,
    _envelope,
]
"""Each takes a request that may be damaged already, and damages it further."""
