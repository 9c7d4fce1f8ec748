"""ValueCounts: the distinct values of a column and how often each occurs, counted in parts and merged."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from features.ops.arrow_column import ColumnError, holds_lists
from features.ops.dictionary_codes import counts
from features.ops.interner import Interner
from features.ops.value_order import by_value

_MOST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class ValueCounts:
    """Distinct values [V], rows of each int64 [V], and the rows that are null."""

    values: pa.Array
    sizes: np.ndarray
    num_nulls: int = 0


def counted(chunks: Sequence[pa.Array]) -> ValueCounts:
    """Counts of the values, or of the elements of lists; a dictionary-encoded chunk costs one addition a row."""
    return merged([_of_chunk(chunk.flatten() if holds_lists(chunk) else chunk) for chunk in chunks])


def merged(parts: Sequence[ValueCounts], interner: Interner | None = None) -> ValueCounts:
    """One of several. Values come in the order in which they first appear in the parts.

    Args:
        interner: a table to merge into; what it holds already comes first.
    """
    if len(parts) == 1 and interner is None:
        return parts[0]
    if interner is None:
        interner = Interner(value_type([part.values.type for part in parts if len(part.values)]))
    sizes = np.zeros(0, np.int64)
    interner.reserve(sum(len(part.values) for part in parts))
    for part in parts:
        if not len(part.values):  # of a type that says nothing, where all rows are null
            continue
        codes = interner.add(part.values)
        sizes = np.concatenate([sizes, np.zeros(len(interner) - len(sizes), np.int64)])
        _add(codes, part.sizes, sizes)
    sizes = np.concatenate([sizes, np.zeros(len(interner) - len(sizes), np.int64)])
    return ValueCounts(interner.values(), sizes, sum(part.num_nulls for part in parts))


def value_type(types: Sequence[pa.DataType]) -> pa.DataType:
    """The type that holds values of all types: text, whole numbers or numbers; text where there are only nulls."""
    found = {_plain(kind) for kind in types} - {pa.null()}
    if found == {pa.int64(), pa.float64()}:
        return pa.float64()
    if len(found) > 1:
        raise ColumnError(
            f"the parts of a column must agree on text or numbers, got {sorted(map(str, found))}; write all files alike"
        )
    return found.pop() if found else pa.string()


def by_frequency(found: ValueCounts) -> np.ndarray:
    """Places of the values, the most frequent first, ties in ascending order of the value."""
    order = by_value(found.values)
    rare = (_MOST - np.minimum(found.sizes[order], _MOST)).astype(np.uint16)
    order = order[np.argsort(rare, kind="stable")]  # a radix sort
    num_frequent = int((rare == 0).sum())
    head = order[:num_frequent]
    order[:num_frequent] = head[np.argsort(-found.sizes[head], kind="stable")]
    return order


def _of_chunk(values: pa.Array) -> ValueCounts:
    if values.null_count == len(values):
        return ValueCounts(pa.nulls(0), np.empty(0, np.int64), len(values))
    if not isinstance(values, pa.DictionaryArray):
        interner = Interner(value_type([values.type]))
        codes = interner.add(values)
        sizes = np.zeros(len(interner), np.int64)
        return ValueCounts(interner.values(), sizes, _count(codes, sizes))
    sizes = counts(values)
    known = values.dictionary
    num_nulls = len(values) - int(sizes.sum())
    if known.null_count:
        num_nulls += int(sizes[np.asarray(pc.is_null(known))].sum())
        sizes[np.asarray(pc.is_null(known))] = 0
    if not sizes.all():
        known, sizes = known.filter(pa.array(sizes > 0)), sizes[sizes > 0]
    return ValueCounts(known, sizes, num_nulls)


def _plain(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_dictionary(kind):
        return _plain(kind.value_type)
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return pa.string()
    if pa.types.is_integer(kind) or pa.types.is_boolean(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_null(kind):
        return kind
    raise ColumnError(f"categories are text or numbers, got {kind}; cast the column first")


@njit(nogil=True, cache=True)
def _add(codes, more, sizes):
    for row in range(len(codes)):
        if codes[row] >= 0:
            sizes[codes[row]] += more[row]


@njit(nogil=True, cache=True)
def _count(codes, sizes):
    num_nulls = 0
    for row in range(len(codes)):
        if codes[row] >= 0:
            sizes[codes[row]] += 1
        else:
            num_nulls += 1
    return num_nulls
