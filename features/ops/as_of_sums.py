"""AsOfSums: sums of measures over the rows of each value before a moment, exact across partitions in any order."""

# Shapes: N rows  V values  M measures  E entries (a value at a moment).

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
from numba import njit

from features.ops.interner import Interner
from features.ops.keyed_sums import codes_of, interner_for
from features.ops.value_counts import value_type


@dataclass(frozen=True)
class AsOfSums:
    """Entries by value, then moment: the value's place int64 [E] (V: null), the moment int64 [E], the sums [E, M]."""

    values: pa.Array
    code_E: np.ndarray
    moment_E: np.ndarray
    sum_EM: np.ndarray

    def to_table(self) -> pa.Table:
        """One row an entry."""
        with_null = pa.concat_arrays([self.values, pa.nulls(1, self.values.type)])
        lists = pa.FixedSizeListArray.from_arrays(pa.array(self.sum_EM.reshape(-1)), self.sum_EM.shape[1])
        return pa.table({"value": with_null.take(pa.array(self.code_E)), "moment": self.moment_E, "sums": lists})

    @classmethod
    def from_table(cls, table: pa.Table) -> AsOfSums:
        """Inverse of `to_table`."""
        table = table.combine_chunks()
        values = table["value"].combine_chunks() if len(table) else pa.array([], table["value"].type)
        interner = interner_for([values])
        codes = codes_of(interner.add, [values])
        sum_EM = table["sums"].combine_chunks().flatten().to_numpy().reshape(len(table), table["sums"].type.list_size)
        codes = np.where(codes < 0, len(interner), codes).astype(np.int64)
        return cls(interner.values(), codes, table["moment"].to_numpy(), sum_EM)


def summed_as_of(chunks: Sequence[pa.Array], moment_N: np.ndarray, measure_NM: np.ndarray) -> AsOfSums:
    """Sums over the rows of each value and moment."""
    interner = interner_for(chunks)
    code_N = codes_of(interner.add, chunks)
    code_N = np.where(code_N < 0, len(interner), code_N).astype(np.int64)
    return _condensed(interner.values(), code_N, moment_N.astype(np.int64), measure_NM)


def merged_as_of(parts: Sequence[AsOfSums]) -> AsOfSums:
    """One of several."""
    interner = Interner(value_type([part.values.type for part in parts if len(part.values)]))
    places = [interner.add(part.values) if len(part.values) else np.empty(0, np.int32) for part in parts]
    codes = [
        np.append(place.astype(np.int64), len(interner))[part.code_E] for place, part in zip(places, parts, strict=True)
    ]
    moments, sums = [part.moment_E for part in parts], [part.sum_EM for part in parts]
    return _condensed(interner.values(), np.concatenate(codes), np.concatenate(moments), np.concatenate(sums))


class SeenBefore:
    """Looks up the sums over earlier rows."""

    def __init__(self, entries: AsOfSums) -> None:
        self._interner = Interner(value_type([entries.values.type]))
        self._interner.add(entries.values)
        self._begin_V = np.searchsorted(entries.code_E, np.arange(len(entries.values) + 2))
        self._moment_E = entries.moment_E
        self._through_EM = _running(entries.code_E, entries.sum_EM)
        everything = np.zeros(len(entries.code_E), np.int64)
        together = _condensed(entries.values, everything, entries.moment_E, entries.sum_EM)
        self._all_moments, self._all_through = together.moment_E, _running(together.code_E, together.sum_EM)

    def seen(self, chunks: Sequence[pa.Array], moment_N: np.ndarray) -> np.ndarray:
        """Sums [N, M] over the rows with the same value and a strictly smaller moment."""
        code_N = codes_of(self._interner.find, chunks)
        null_N = np.concatenate([np.empty(0, bool), *[np.asarray(chunk.is_null()) for chunk in chunks]])
        code_N = np.where(null_N, len(self._begin_V) - 2, code_N).astype(np.int64)
        seen_NM = np.zeros((len(code_N), self._through_EM.shape[1]))
        _look_back(code_N, moment_N, self._begin_V, self._moment_E, self._through_EM, seen_NM)
        return seen_NM

    def total(self, moment_N: np.ndarray) -> np.ndarray:
        """Sums [N, M] over all rows with a strictly smaller moment."""
        seen_NM = np.zeros((len(moment_N), self._all_through.shape[1]))
        begin = np.array([0, len(self._all_moments)])
        _look_back(np.zeros(len(moment_N), np.int64), moment_N, begin, self._all_moments, self._all_through, seen_NM)
        return seen_NM


def _condensed(values: pa.Array, code_N: np.ndarray, moment_N: np.ndarray, measure_NM: np.ndarray) -> AsOfSums:
    """One entry a value and moment; sums are taken in the rows' order."""
    order = np.lexsort((moment_N, code_N))
    code, moment = code_N[order], moment_N[order]
    is_first = np.ones(len(order), bool)
    is_first[1:] = (code[1:] != code[:-1]) | (moment[1:] != moment[:-1])
    begins = np.flatnonzero(is_first)
    measures = measure_NM[order]
    sums = np.add.reduceat(measures, begins, axis=0) if len(begins) else measures
    return AsOfSums(values, code[begins], moment[begins], sums)


@njit(nogil=True, cache=True)
def _running(codes, sums):
    """Sums through each entry, from the first of its value."""
    through = sums.copy()
    for entry in range(1, len(codes)):
        if codes[entry] == codes[entry - 1]:
            through[entry] += through[entry - 1]
    return through


@njit(nogil=True, cache=True)
def _look_back(codes, moments, begins, entry_moments, through, seen):
    for row in range(len(codes)):
        if codes[row] < 0:
            continue
        first, low, high = begins[codes[row]], begins[codes[row]], begins[codes[row] + 1]
        while low < high:
            middle = (low + high) // 2
            if entry_moments[middle] < moments[row]:
                low = middle + 1
            else:
                high = middle
        if low > first:
            seen[row] = through[low - 1]
