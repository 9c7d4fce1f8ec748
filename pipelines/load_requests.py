"""The requests of a load test, serialised beforehand, and the check of their replies.

Generator and server may share a processor: nothing is built or decoded while the clock runs that need not be.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from ensemble.triton_config import MODEL_NAME, SLATE_OUTPUTS
from pipelines.arrivals import active_users, call_sizes

METHOD = "/inference.GRPCInferenceService/ModelInfer"
NUM_PREPARED = 4096
"""Distinct requests; a longer test begins again with the first."""
FULL_CHECK_EVERY = 16
"""One reply in so many is decoded and checked item by item."""


@dataclass(frozen=True)
class LoadRequest:
    """One call, ready to be sent."""

    payload: bytes
    num_users: int
    k: int
    excluded: list[frozenset[bytes]]
    """Of each user."""


def prepare(
    run: Path, users_per_call: str, k: int, max_exclude: int, max_batch_size: int, seed: int
) -> list[LoadRequest]:
    """Requests for the run's users, the active ones more often.

    Args:
        run: the run's folder; its users and items are read.
        users_per_call: of `call_sizes`.
        max_exclude: each user excludes 0 to so many items, drawn evenly.
        max_batch_size: most users of a call.
    Raises: ValueError as `call_sizes`.
    """
    rng = np.random.default_rng(seed)
    users = pq.read_table(run / "etl" / "users.parquet", columns=["raw_id", "num_events"])
    items = pq.read_table(run / "etl" / "items.parquet", columns=["raw_id"])["raw_id"].to_numpy(zero_copy_only=False)
    sizes = call_sizes(users_per_call, NUM_PREPARED, max_batch_size, rng)
    asking = active_users(users["num_events"].to_numpy(), int(sizes.sum()), rng)
    raw_ids = users["raw_id"].to_numpy(zero_copy_only=False)[asking]
    requests = []
    for ids in np.split(raw_ids, np.cumsum(sizes)[:-1]):
        counts = rng.integers(0, max_exclude + 1, len(ids))
        excluded = [items[rng.integers(len(items), size=count)].tolist() for count in counts]
        requests.append(request_of(ids.tolist(), k, excluded))
    return requests


def request_of(user_ids: Sequence[str], k: int, exclude: Sequence[Sequence[str]]) -> LoadRequest:
    """One call in the wire's form, with the inputs that callers are to send so that Triton joins them."""
    from tritonclient.grpc import service_pb2

    num_users = len(user_ids)
    width = max(map(len, exclude), default=0)
    padded = [item for row in exclude for item in (*row, *[""] * (width - len(row)))]
    message = service_pb2.ModelInferRequest(model_name=MODEL_NAME)
    for name, kind, shape, raw in (
        ("user_id", "BYTES", [num_users, 1], packed(user_ids)),
        ("k", "INT32", [num_users, 1], np.full(num_users, k, "<i4").tobytes()),
        ("exclude", "BYTES", [num_users, width], packed(padded)),
        ("timestamp", "INT64", [num_users, 1], np.full(num_users, -1, "<i8").tobytes()),
    ):
        message.inputs.add(name=name, datatype=kind, shape=shape)
        message.raw_input_contents.append(raw)
    for name in SLATE_OUTPUTS:
        message.outputs.add(name=name)
    excluded = [frozenset(item.encode() for item in row) for row in exclude]
    return LoadRequest(message.SerializeToString(), num_users, k, excluded)


def packed(texts: Sequence[str]) -> bytes:
    """Texts in the form of Triton's BYTES tensors: each behind its length in four bytes."""
    return b"".join(struct.pack("<I", len(raw)) + raw for raw in map(str.encode, texts))


def unpacked(raw: bytes) -> list[bytes]:
    """The entries of a BYTES tensor."""
    entries, place = [], 0
    while place < len(raw):
        (length,) = struct.unpack_from("<I", raw, place)
        place += 4 + length
        entries.append(raw[place - length : place])
    return entries


def sources_of(reply: bytes, request: LoadRequest, fully: bool) -> list[bytes]:
    """What each user of a reply was served from.

    Args:
        fully: decode the slates too: k items each, none twice, none excluded.
    Raises: WrongReplyError if the reply is not one to this request.
    """
    from tritonclient.grpc import service_pb2

    message = service_pb2.ModelInferResponse.FromString(reply)
    raw = {tensor.name: place for place, tensor in enumerate(message.outputs)}
    shape = list(message.outputs[raw["item_ids"]].shape)
    if shape != [request.num_users, request.k]:
        raise WrongReplyError(f"item_ids must have shape [{request.num_users}, {request.k}], got {shape}")
    if fully:
        items = unpacked(message.raw_output_contents[raw["item_ids"]])
        for user, excluded in enumerate(request.excluded):
            slate = items[user * request.k : (user + 1) * request.k]
            if b"" in slate:
                raise WrongReplyError(f"user {user} must get {request.k} items, got {sum(map(bool, slate))}")
            if len(set(slate)) < len(slate):
                raise WrongReplyError(f"user {user} got an item twice")
            if not excluded.isdisjoint(slate):
                raise WrongReplyError(f"user {user} got an item that the request excludes")
    return unpacked(message.raw_output_contents[raw["source"]])


class WrongReplyError(Exception):
    """A reply that is none to its request; counted as an error of the server."""
