"""Rows of the request log: what runs left behind as Arrow columns. docs/serving.md describes them.

All of it happens in the log's own thread, which shares the interpreter with the requests: it works a column at a time
and lets them in between.

Legend: B users that are logged  N entries of a user  S sources  Q proposals of a source
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.release import SEAL
from ensemble.request import FEATURE_TIME
from ensemble.request_log import SampledRun
from ensemble.run_metrics import REMOVED, num_removed

Columns = dict[str, np.ndarray]

FORMAT_VERSION = 1
"""Raised when a column changes its meaning or goes; a new column leaves it."""
FORMAT_KEY, RELEASE_KEY = "cascade.request_log", "cascade.release"

NO_ITEM = -1
_MS = 1_000
_BREATH_SECONDS = 1e-4
_LOGGED = ("num_failed_sources", "proposed_row", "candidate_row", "retrieval_score", "score")
"""Columns of a run that are logged, beside the features and what filters removed."""
_IDS = pa.list_(pa.string())
_NUMBERS = pa.list_(pa.float32())
_PROPOSALS = pa.list_(pa.struct([("source", pa.string()), ("item_ids", _IDS)]))

SCHEMA = pa.schema(
    [
        ("request_id", pa.string()),
        ("received", pa.timestamp("us", tz="UTC")),
        ("model_version", pa.string()),
        ("release", pa.string()),
        ("as_of", pa.timestamp("ms", tz="UTC")),
        ("arm", pa.string()),
        ("user_id", pa.string()),
        ("k", pa.int32()),
        ("timestamp", pa.timestamp("ms", tz="UTC")),
        ("seed", pa.int64()),
        ("temperature", pa.float32()),
        ("diversity", pa.float32()),
        ("exclude", _IDS),
        ("allow", _IDS),
        ("source", pa.string()),
        ("features", pa.map_(pa.string(), pa.list_(pa.float64()))),
        ("removed", pa.map_(pa.string(), pa.int64())),
        ("proposals", _PROPOSALS),
        ("num_failed_sources", pa.int32()),
        ("candidate_ids", _IDS),
        ("candidate_retrieval_scores", _NUMBERS),
        ("candidate_scores", _NUMBERS),
        ("slate_ids", _IDS),
        ("slate_scores", _NUMBERS),
        ("slate_propensities", _NUMBERS),
        ("run_seconds", pa.float64()),
        ("run_users", pa.int32()),
        ("run_requests", pa.int32()),
        ("stage_seconds", pa.map_(pa.string(), pa.float64())),
    ],
    metadata={FORMAT_KEY: str(FORMAT_VERSION)},
)
"""One row a user of a sampled request. What a run did not come to is null."""


@dataclass(frozen=True, eq=False)
class LoggedRelease:
    """What answers the requests, as the log needs it."""

    version: str
    """Triton's version of the model."""
    seal: bytes
    """`sha256.json` of the exported model: the moment of the features, and a hash of every file."""
    item_ids: pa.Array
    """[I] raw id of each item row."""
    source_names: Sequence[str]
    """The candidate sources, in the order of the column `proposed_row`."""
    feature_names: Sequence[str]
    """Columns with the user's features."""

    @classmethod
    def read(cls, version_folder: Path, source_names: Sequence[str], feature_names: Sequence[str]) -> Self:
        """From the folder of an exported model."""
        items = pq.read_table(version_folder / "ensemble" / "items.parquet", columns=["raw_id"])["raw_id"]
        return cls(
            version=version_folder.name,
            seal=(version_folder / SEAL).read_bytes(),
            item_ids=items.cast(pa.string()).combine_chunks(),
            source_names=source_names,
            feature_names=feature_names,
        )

    @cached_property
    def id(self) -> str:
        """Hash of everything sealed, the same for the same export wherever it is served."""
        return hashlib.sha256(self.seal).hexdigest()[:16]

    @cached_property
    def as_of(self) -> int:
        """Unix seconds up to which the features know the users."""
        return int(json.loads(self.seal)["as_of"])

    def file_metadata(self) -> dict[bytes, bytes]:
        """What each file of the log says of the release."""
        told = {"version": self.version, "id": self.id} | json.loads(self.seal)
        return {RELEASE_KEY.encode(): json.dumps(told, sort_keys=True).encode()}


@dataclass(frozen=True, eq=False)
class KeptRows:
    """What the log keeps of a run, copied out of it, so that the run's own arrays can go."""

    requests: list[tuple[str, str, int]]
    """Id, arm and number of users of each sampled request."""
    received: float
    seconds: float
    num_users: int
    num_requests: int
    stage_seconds: dict[str, float]
    exclude: list[np.ndarray]
    allow: list[np.ndarray | None]
    asked: Columns
    """Fields of the request, [B]."""
    slate: Columns
    """Fields of the reply, [B, k], and `source`, [B]."""
    columns: Columns
    """What the operators made, [B, ...]; less or nothing if the run did not come to it."""

    @property
    def kind(self) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Rows with the same can be made into one batch."""
        return tuple(self.columns), tuple(self.stage_seconds)


def kept(run: SampledRun, release: LoggedRelease) -> KeptRows:
    """The sampled users of a run."""
    rows = np.concatenate([np.arange(one.rows.start, one.rows.stop) for one in run.sampled])
    request, reply, columns = run.request, run.reply, run.trace.columns
    names = [*release.feature_names, *_LOGGED, *(name for name in columns if name.startswith(REMOVED))]
    return KeptRows(
        requests=[(one.id, one.arm, one.rows.stop - one.rows.start) for one in run.sampled],
        received=run.received,
        seconds=run.seconds,
        num_users=len(request),
        num_requests=run.num_requests,
        stage_seconds=run.trace.stage_seconds,
        exclude=[request.exclude[row] for row in rows],
        allow=[request.allow[row] for row in rows],
        asked={
            name: getattr(request, name)[rows]
            for name in ("user_id", "k", "timestamp", "seed", "temperature", "diversity")
        },
        slate={name: getattr(reply, name)[rows] for name in ("item_ids", "scores", "propensities", "source")},
        columns={name: columns[name][rows] for name in names if name in columns},
    )


def batches_of(all_kept: Sequence[KeptRows], release: LoggedRelease) -> Iterator[pa.RecordBatch]:
    """One row a user, in their order; one batch for neighbours that have the same columns."""
    for _, alike in itertools.groupby(all_kept, lambda one: one.kind):
        group = list(alike)
        arrays = []
        for name, column in _columns(group, release):
            kind = SCHEMA.field(name).type
            arrays.append(column if isinstance(column, pa.Array) else pa.array(column, kind))
            time.sleep(_BREATH_SECONDS)
        yield pa.RecordBatch.from_arrays(arrays, schema=SCHEMA.remove_metadata())


def _columns(group: list[KeptRows], release: LoggedRelease) -> Iterator[tuple[str, object]]:
    """Every column of the schema, in its order."""
    requests = [(id_, arm or None, one) for one in group for id_, arm, size in one.requests for _ in range(size)]
    size = len(requests)
    asked = {name: np.concatenate([one.asked[name] for one in group]) for name in group[0].asked}
    at_B = asked["timestamp"]
    yield "request_id", [id_ for id_, _, _ in requests]
    yield "received", [round(one.received * 1e6) for _, _, one in requests]
    yield "model_version", [release.version] * size
    yield "release", [release.id] * size
    yield "as_of", [release.as_of * _MS] * size
    yield "arm", [arm for _, arm, _ in requests]
    yield "user_id", asked["user_id"]
    yield "k", asked["k"]
    yield "timestamp", np.where(at_B == FEATURE_TIME, release.as_of, at_B) * _MS
    yield "seed", asked["seed"]
    yield "temperature", pa.array(asked["temperature"], from_pandas=True)  # nan, what is configured, as null
    yield "diversity", pa.array(asked["diversity"], from_pandas=True)
    yield "exclude", [ids.tolist() for one in group for ids in one.exclude]
    yield "allow", [None if ids is None else ids.tolist() for one in group for ids in one.allow]
    yield "source", np.concatenate([one.slate["source"] for one in group])
    yield "features", _features(group, release.feature_names)
    yield "removed", _removed(group)
    yield "proposals", _proposals(group, release)
    yield "num_failed_sources", _stacked(group, "num_failed_sources", 0)
    yield from _candidates(group, release)
    slate_ids_BN = _joined([one.slate["item_ids"] for one in group], "")
    is_there_BN = slate_ids_BN != ""
    yield "slate_ids", _lists(slate_ids_BN, is_there_BN, pa.string())
    for name in ("scores", "propensities"):
        yield f"slate_{name}", _lists(_joined([one.slate[name] for one in group], 0), is_there_BN, pa.float32())
    yield "run_seconds", [one.seconds for _, _, one in requests]
    yield "run_users", [one.num_users for _, _, one in requests]
    yield "run_requests", [one.num_requests for _, _, one in requests]
    taken_BN = np.array([[*one.stage_seconds.values()] for _, _, one in requests])
    yield "stage_seconds", _maps([*group[0].stage_seconds], taken_BN, pa.float64())


def _features(group: list[KeptRows], names: Sequence[str]) -> pa.Array:
    """What the store said of each user: a list of numbers a feature, one number where it is no list."""
    there = [name for name in names if name in group[0].columns]
    size = _num_rows(group)
    if not there:
        return pa.nulls(size, SCHEMA.field("features").type)
    stacked = [_stacked(group, name, 0) for name in there]
    values = [np.asarray(column, dtype=np.float64).reshape(size, -1) for column in stacked]
    widths = np.tile([value.shape[1] for value in values], size)
    flat = np.concatenate(values, axis=1).ravel()
    return _map_array(there, pa.ListArray.from_arrays(_offsets(widths), pa.array(flat)), size)


def _removed(group: list[KeptRows]) -> pa.Array:
    """How many items each filter kept from each user."""
    names = [name for name in group[0].columns if name.startswith(REMOVED)]
    if not names:
        return pa.nulls(_num_rows(group), SCHEMA.field("removed").type)
    number_BN = np.stack([num_removed(np.asarray(_stacked(group, name, NO_ITEM))) for name in names], axis=1)
    return _maps([name.removeprefix(REMOVED) for name in names], number_BN, pa.int64())


def _proposals(group: list[KeptRows], release: LoggedRelease) -> pa.Array:
    """What each source proposed to each user, its best first."""
    size, num_sources = _num_rows(group), len(release.source_names)
    if "proposed_row" not in group[0].columns:
        return pa.nulls(size, _PROPOSALS)
    proposed_XQ = np.asarray(_stacked(group, "proposed_row", NO_ITEM)).reshape(size * num_sources, -1)
    names = pa.array([*release.source_names] * size)
    structs = pa.StructArray.from_arrays([names, _items(proposed_XQ, release)], fields=list(_PROPOSALS.value_type))
    return pa.ListArray.from_arrays(_offsets(np.full(size, num_sources)), structs)


def _candidates(group: list[KeptRows], release: LoggedRelease) -> Iterator[tuple[str, object]]:
    """The candidates after the filters, in retrieval's order, with retrieval's and the ranker's scores."""
    row_BN = _stacked(group, "candidate_row", NO_ITEM)
    if not isinstance(row_BN, np.ndarray):
        yield "candidate_ids", row_BN
    else:
        yield "candidate_ids", _items(row_BN, release)
    for logged, name in (("candidate_retrieval_scores", "retrieval_score"), ("candidate_scores", "score")):
        score_BN = _stacked(group, name, 0)
        if isinstance(row_BN, np.ndarray) and isinstance(score_BN, np.ndarray):
            yield logged, _lists(score_BN, row_BN != NO_ITEM, pa.float32())
        else:
            yield logged, [None] * len(score_BN)


def _stacked(group: list[KeptRows], name: str, empty: object) -> np.ndarray | list[None]:
    """A column of all, padded to the widest; nulls if they do not have it."""
    if name not in group[0].columns:
        return [None] * _num_rows(group)
    return _joined([one.columns[name] for one in group], empty)


def _joined(pieces: list[np.ndarray], empty: object) -> np.ndarray:
    """Arrays [b, ...] below each other; where one is narrower in its last dimension it is padded."""
    if pieces[0].ndim == 1 or len({piece.shape[1:] for piece in pieces}) == 1:
        return np.concatenate(pieces)
    width = max(piece.shape[-1] for piece in pieces)
    shape = sum(map(len, pieces)), *pieces[0].shape[1:-1], width
    joined = np.full(shape, empty, dtype=pieces[0].dtype)
    start = 0
    for piece in pieces:
        joined[start : start + len(piece), ..., : piece.shape[-1]] = piece
        start += len(piece)
    return joined


def _num_rows(group: list[KeptRows]) -> int:
    return sum(size for one in group for _, _, size in one.requests)


def _items(row_XN: np.ndarray, release: LoggedRelease) -> pa.ListArray:
    """Lists of raw ids, without the empty slots."""
    is_there = row_XN != NO_ITEM
    return pa.ListArray.from_arrays(_offsets(is_there.sum(1)), release.item_ids.take(pa.array(row_XN[is_there])))


def _lists(value_BN: np.ndarray, is_there_BN: np.ndarray, kind: pa.DataType) -> pa.ListArray:
    """Values of the entries that are there, a list a row."""
    return pa.ListArray.from_arrays(_offsets(is_there_BN.sum(1)), pa.array(value_BN[is_there_BN], kind))


def _maps(names: Sequence[str], value_BN: np.ndarray, kind: pa.DataType) -> pa.Array:
    """The same names with each row's own values."""
    return _map_array(names, pa.array(value_BN.ravel(), kind), len(value_BN))


def _map_array(names: Sequence[str], values: pa.Array, size: int) -> pa.Array:
    return pa.MapArray.from_arrays(_offsets(np.full(size, len(names))), pa.array([*names] * size, pa.string()), values)


def _offsets(lengths: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
