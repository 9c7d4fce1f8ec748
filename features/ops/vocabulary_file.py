"""Vocabularies on disk, as NVTabular's Categorify keeps them, and in memory, once a process.

`unique.<name>.parquet` holds the values and their sizes in the order of their ids, `meta.<name>.parquet` the number of
ids of each kind; NVTabular and other Merlin tools read both.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numba import njit

from features.ops.arrow_buffers import bits
from features.ops.dictionary_codes import take
from features.ops.file_cache import FileCache
from features.ops.hash_table import is_valid
from features.ops.interner import Interner
from features.ops.value_counts import ValueCounts, value_type
from features.schema import FIRST_KNOWN, NULL, PADDING, UNSEEN


@dataclass(frozen=True)
class Vocabulary:
    """Values and the id of each."""

    interner: Interner
    id_of_code: np.ndarray
    """int32 [codes + 1]: ids of the interner's codes; the last one is UNSEEN, where code -1 leads."""

    def ids(self, values: pa.Array, dtype: Any) -> np.ndarray:
        """Ids [N] of values: NULL for null, UNSEEN for those that are not in the vocabulary.

        Raises: InternerError if the values are text and the vocabulary numbers, or the other way round.
        """
        if values.null_count == len(values) or not len(self.interner):
            return np.where(np.asarray(values.is_null()), NULL, UNSEEN).astype(dtype)
        if isinstance(values, pa.DictionaryArray):
            return take(self.ids(values.dictionary, dtype), values, NULL)
        codes, values = self._codes(values)
        ids = np.empty(len(codes), dtype)
        _number(codes, *bits(values), self.id_of_code, ids)
        return ids

    def _codes(self, values: pa.Array) -> tuple[np.ndarray, pa.Array]:
        """Codes, -1 for unknown and null, and the values with every null marked."""
        if not pa.types.is_floating(values.type):
            return self.interner.find(values), values
        floats = values.to_numpy(zero_copy_only=False).astype(np.float64)  # nulls are NaN
        values = pa.array(floats, from_pandas=True)
        if self.interner.value_type != pa.int64():
            return self.interner.find(values), values
        is_whole = (np.floor(floats) == floats) & (np.abs(floats) < 2.0**63)
        codes = self.interner.find(pa.array(np.where(is_whole, floats, 0).astype(np.int64)))
        return np.where(is_whole, codes, -1).astype(codes.dtype), values


def write_vocabulary(folder: Path, name: str, ordered: ValueCounts, num_unseen_rows: int = 0) -> Path:
    """Write values in the order of their ids, and the meta file beside them.

    Args:
        ordered: the values, ids FIRST_KNOWN and up, and the rows of each.
        num_unseen_rows: rows whose value got no id.
    Returns: the file with the values.
    """
    folder.mkdir(parents=True, exist_ok=True)
    size = len(ordered.values)
    table = pa.table({name: ordered.values, f"{name}_size": ordered.sizes})
    path = folder / f"unique.{name}.parquet"
    _write(table.replace_schema_metadata(_labels_from(FIRST_KNOWN, size)), path)
    meta = {
        "kind": ["pad", "null", "oov", "unique"],
        "offset": [PADDING, NULL, UNSEEN, FIRST_KNOWN],
        "num_indices": [1, 1, 1, size],
        "num_observed": [0, ordered.num_nulls, num_unseen_rows, int(ordered.sizes.sum())],
    }
    _write(pa.table(meta), folder / f"meta.{name}.parquet")
    return path


def read_values(path: Path | str, name: str) -> pa.Array:
    """The values of a vocabulary file, in the order of their ids."""
    column = pq.read_table(path, columns=[name])[name].combine_chunks()
    return column if isinstance(column, pa.Array) else column.combine_chunks()


def load_vocabulary(path: Path | str, name: str) -> Vocabulary:
    """The vocabulary in a file, from memory if this process has read or written it."""
    return _vocabularies.get(path, lambda: vocabulary_of(read_values(path, name)))


def keep_vocabulary(path: Path | str, vocabulary: Vocabulary, owner: object) -> None:
    """Remember what was just written, or moved, as long as its owner lives."""
    _vocabularies.put(path, vocabulary, owner)


def vocabulary_of(values: pa.Array) -> Vocabulary:
    """A vocabulary of values in the order of their ids."""
    interner = Interner(value_type([values.type]))
    interner.reserve(len(values))
    codes = interner.add(values)
    id_of_code = np.full(len(interner) + 1, UNSEEN, np.int32)
    id_of_code[codes] = np.arange(FIRST_KNOWN, FIRST_KNOWN + len(codes), dtype=np.int32)
    return Vocabulary(interner, id_of_code)


_vocabularies: FileCache[Vocabulary] = FileCache()


def _labels_from(first: int, size: int) -> dict[bytes, bytes]:
    """pandas metadata: the row index are the ids."""
    index = {"kind": "range", "name": None, "start": first, "stop": first + size, "step": 1}
    return {b"pandas": json.dumps({"index_columns": [index], "column_indexes": [], "columns": []}).encode()}


def _write(table: pa.Table, path: Path) -> None:
    building = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, building, compression="none", use_dictionary=False)
    os.replace(building, path)


@njit(nogil=True, cache=True)
def _number(codes, validity, first_bit, id_of_code, ids):
    for row in range(len(codes)):
        ids[row] = id_of_code[codes[row]] if is_valid(validity, first_bit + row) else NULL
