"""KeyedSums: sums of measures over the rows of each value, gathered in parts, and what of them a row may see."""

# Shapes: N rows  V values  F folds  M measures.

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit

from features.ops.interner import Interner
from features.ops.value_counts import value_type


@dataclass(frozen=True)
class KeyedSums:
    """Distinct values [V] and float64 sums [V + 1, F, M] over the rows of each fold; the last row is that of null."""

    values: pa.Array
    sums: np.ndarray

    def to_table(self) -> pa.Table:
        """One row a value, null last."""
        flat = self.sums.reshape(len(self.sums), -1)
        lists = pa.FixedSizeListArray.from_arrays(pa.array(flat.reshape(-1)), flat.shape[1])
        return pa.table({"value": pa.concat_arrays([self.values, pa.nulls(1, self.values.type)]), "sums": lists})

    @classmethod
    def from_table(cls, table: pa.Table, num_folds: int) -> KeyedSums:
        """Inverse of `to_table`."""
        table = table.combine_chunks()
        flat = table["sums"].combine_chunks().flatten().to_numpy()
        values = table["value"].combine_chunks()
        return cls(values.slice(0, len(values) - 1), flat.reshape(len(values), num_folds, -1))


def summed(chunks: Sequence[pa.Array], fold_N: np.ndarray, measure_NM: np.ndarray, num_folds: int) -> KeyedSums:
    """Sums over the rows of each value and fold.

    Args:
        chunks: the value of each row, N in all.
    """
    interner = interner_for(chunks)
    code_N = codes_of(interner.add, chunks)
    sums = np.zeros((len(interner) + 1, num_folds, measure_NM.shape[1]))
    _add_rows(code_N, fold_N, measure_NM, sums)
    return KeyedSums(interner.values(), sums)


def merged_sums(parts: Sequence[KeyedSums]) -> KeyedSums:
    """One of several; values in the order in which they first appear in the parts."""
    interner = Interner(value_type([part.values.type for part in parts if len(part.values)]))
    places = [interner.add(part.values) if len(part.values) else np.empty(0, np.int32) for part in parts]
    sums = np.zeros((len(interner) + 1, *parts[0].sums.shape[1:]))
    for place, part in zip(places, parts, strict=True):
        sums[place] += part.sums[:-1]  # the values of a part are distinct
        sums[-1] += part.sums[-1]
    return KeyedSums(interner.values(), sums)


def interner_for(chunks: Sequence[pa.Array]) -> Interner:
    """An empty table for the values of rows that come in pieces."""
    return Interner(value_type([chunk.type for chunk in chunks if chunk.null_count < len(chunk)]))


def codes_of(encode, chunks: Sequence[pa.Array]) -> np.ndarray:
    """What an interner's `add` or `find` gives for rows that come in pieces; a piece that is all null is -1."""
    codes = [encode(chunk) if chunk.null_count < len(chunk) else np.full(len(chunk), -1, np.int32) for chunk in chunks]
    return np.concatenate([np.empty(0, np.int32), *codes])


class SeenSums:
    """Looks up the sums that rows may see: those over all rows, or with several folds over the rows of other folds."""

    def __init__(self, keyed: KeyedSums) -> None:
        self._keyed = keyed
        self._interner = Interner(value_type([keyed.values.type]))
        self._interner.reserve(len(keyed.values))
        self._interner.add(keyed.values)
        self._over_all = keyed.sums.sum(axis=1)

    def total(self) -> np.ndarray:
        """Sums over all rows [M]."""
        return self._over_all.sum(axis=0)

    def seen(self, chunks: Sequence[pa.Array], fold_N: np.ndarray) -> np.ndarray:
        """Sums [N, M]; 0 for a value that was never seen."""
        code_N = codes_of(self._interner.find, chunks)
        null_N = np.concatenate([np.empty(0, bool), *[np.asarray(chunk.is_null()) for chunk in chunks]])
        code_N = np.where(null_N, len(self._over_all) - 1, code_N)
        seen_NM = self._over_all[code_N]
        if self._keyed.sums.shape[1] > 1:
            seen_NM -= self._keyed.sums[code_N, fold_N]
        seen_NM[code_N < 0] = 0
        return seen_NM


@njit(nogil=True, cache=True)
def _add_rows(codes, folds, measures, sums):
    for row in range(len(codes)):
        for measure in range(measures.shape[1]):
            sums[codes[row], folds[row], measure] += measures[row, measure]
