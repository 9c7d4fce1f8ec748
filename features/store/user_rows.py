"""The users table as the store's rows, a batch at a time: Feast's entity keys and the features to encode."""

from __future__ import annotations

import struct
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.infra.key_encoding_utils import serialize_entity_key_prefix
from feast.value_type import ValueType

from features.store.value_bytes import concatenated, fixed_width, steps, value_bytes

USERS_PER_BATCH = 8_192
USERS_PER_SORT = 65_536
"""Users in memory at once, put in order and then sent out in batches: some 300 MB with histories of 50 items."""
RAW_ID = "raw_id"

T = TypeVar("T")


@dataclass(frozen=True)
class UserRows:
    """A batch of users in the order of their entity keys."""

    keys: pa.LargeBinaryArray
    """[B] serialized entity keys."""
    features: pa.RecordBatch
    """[B] the features, not yet encoded."""

    def __len__(self) -> int:
        return len(self.keys)

    def values(self) -> dict[str, pa.LargeBinaryArray]:
        """Name -> [B] serialized ValueProto."""
        return {name: value_bytes(name, self.features.column(name)) for name in self.features.schema.names}


class UsersFile:
    """The etl stage's `users.parquet`, read as a stream.

    Args:
        path: the file.
        entity: name of the Feast entity, a text.
        names: the columns that become features.
        more: feature -> function from a run of rows, begin and end, to its column; for features of other origin.
        as_steps: those of the columns, lists, that are kept as `features.store.value_bytes.steps`.
    """

    def __init__(
        self,
        path: Path,
        entity: str,
        names: Sequence[str],
        more: Mapping[str, Callable[[int, int], pa.Array]] = MappingProxyType({}),
        as_steps: Collection[str] = (),
    ) -> None:
        self._file = pq.ParquetFile(path, buffer_size=1 << 20)
        self._entity = entity
        self._names = list(names)
        self.num_users: int = self._file.metadata.num_rows
        self._more = more
        self._as_steps = as_steps
        fields = [self._file.schema_arrow.field(name) for name in names]
        self.schema: pa.Schema = pa.schema([*fields, *(pa.field(name, make(0, 0).type) for name, make in more.items())])

    def batches(self) -> Iterator[UserRows]:
        """All users, USERS_PER_BATCH at a time; USERS_PER_SORT of them stand in the order of their keys."""
        num_read = 0
        for read in self._file.iter_batches(USERS_PER_SORT, columns=[RAW_ID, *self._names]):
            users = self._completed(read, num_read)
            num_read += len(users)
            keys = entity_keys(self._entity, users.column(RAW_ID))
            order = pc.sort_indices(keys)
            is_sorted = np.array_equal(order, np.arange(len(order)))
            for begin in range(0, len(users), USERS_PER_BATCH):
                rows = slice(begin, begin + USERS_PER_BATCH)
                if is_sorted:
                    yield UserRows(keys[rows], users[rows].select(self.schema.names))
                else:
                    yield UserRows(keys.take(order[rows]), users.take(order[rows]).select(self.schema.names))

    def _completed(self, users: pa.RecordBatch, begin: int) -> pa.RecordBatch:
        columns = {name: users.column(name) for name in [RAW_ID, *self._names]}
        columns |= {name: steps(columns[name]) for name in self._as_steps}
        columns |= {name: make(begin, begin + len(users)) for name, make in self._more.items()}
        return pa.RecordBatch.from_pydict(columns)


def entity_keys(entity: str, ids: pa.Array) -> pa.LargeBinaryArray:
    """[B] what Feast's `serialize_entity_key` (version 3) makes of one text entity and its ids."""
    text = ids.cast(pa.large_string()).cast(pa.large_binary())
    before = serialize_entity_key_prefix([entity], 3) + struct.pack("<I", ValueType.STRING.value)
    num_bytes = pc.binary_length(text).to_numpy().astype("<u4").view(np.uint8).reshape(-1, 4)
    return concatenated(before, fixed_width(num_bytes), text)


def one_ahead(parts: Iterator[T]) -> Iterator[T]:
    """The same parts; while one is used, a thread makes the next."""
    with ThreadPoolExecutor(1) as thread:
        coming = thread.submit(next, parts, None)
        while (part := coming.result()) is not None:
            coming = thread.submit(next, parts, None)
            yield part
