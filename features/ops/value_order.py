"""The order of values: numbers by size, text byte by byte, by its first 8 bytes where those decide."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numba import njit

from features.ops.arrow_buffers import numbers, string_parts
from features.ops.hash_table import leading_bytes


def by_value(values: pa.Array) -> np.ndarray:
    """Places [N] of distinct values without nulls, in ascending order."""
    if pa.types.is_integer(values.type) or pa.types.is_floating(values.type):
        return np.argsort(numbers(values))
    prefixes = np.empty(len(values), np.uint64)
    leading_bytes(*string_parts(values), prefixes)
    order = np.argsort(prefixes)
    open_places = np.flatnonzero(_same_as_neighbour(prefixes, order))
    if len(open_places):
        rows = order[open_places]
        order[open_places] = rows[np.asarray(pc.sort_indices(values.take(pa.array(rows))))]
    return order


@njit(nogil=True, cache=True)
def _same_as_neighbour(prefixes, order):
    same = np.zeros(len(order), np.bool_)
    for place in range(1, len(order)):
        if prefixes[order[place]] == prefixes[order[place - 1]]:
            same[place] = same[place - 1] = True
    return same
