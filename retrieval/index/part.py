"""A part of an index: vectors of known items, some of which no longer count, and the filtered search among them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import faiss
import numpy as np

from retrieval.index.kinds import MEASURED_AT, Kind, exactly_nearest, inner_products

# Q queries  D embedding  K candidates  N vectors of the part  I item rows  S forbidden
NO_ITEM = -1
EXACT_SHARE = 0.05
"""Where the filters let less than this share through, the part is searched exactly: the graph or the cells would have
to be searched so broadly that it takes as long."""


@dataclass(frozen=True)
class Part:
    """N vectors; position n holds the vector of item row_N[n]. Never changes: a change makes another Part."""

    kind: Kind
    row_N: np.ndarray | None
    """Item rows, ascending; None where position n is item row n."""
    alive_N: np.ndarray | None = None
    """Whether position n still counts; None for all."""

    def __len__(self) -> int:
        return self.kind.raw.ntotal

    @cached_property
    def num_alive(self) -> int:
        return len(self) if self.alive_N is None else int(self.alive_N.sum())

    def alive_rows(self) -> np.ndarray:
        """Item rows that count, ascending."""
        row_N = np.arange(len(self)) if self.row_N is None else self.row_N
        return row_N if self.alive_N is None else row_N[self.alive_N]

    def without(self, rows: np.ndarray) -> Part:
        """The part after these item rows are gone from it; it may not have all of them."""
        position = self._positions(rows)
        if not len(position):
            return self
        alive_N = np.ones(len(self), bool) if self.alive_N is None else self.alive_N.copy()
        alive_N[position] = False
        return Part(self.kind, self.row_N, alive_N)

    def search(
        self, query_QD: np.ndarray, k: int, forbidden_QS: np.ndarray | None, allowed_I: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item rows [Q, K'] and scores [Q, K'], in no order; NO_ITEM and -inf in empty places. K' may exceed k."""
        query_QW = self.kind.queries(query_QD)
        bits, num_allowed = self._allowed(allowed_I)
        own = [] if forbidden_QS is None else np.flatnonzero((forbidden_QS != NO_ITEM).any(1)).tolist()
        shared = np.setdiff1d(np.arange(len(query_QD)), own)
        found = [self._nearest(query_QW[shared], k, bits, num_allowed)] if len(shared) else []
        for query in own:  # FAISS takes one selector a call
            assert forbidden_QS is not None
            forbidden = np.unique(self._positions(forbidden_QS[query]))
            mine, num_mine = self._without(bits, num_allowed, forbidden)
            found.append(self._nearest(query_QW[query : query + 1], k, mine, num_mine, len(forbidden)))
        position_QK = np.full((len(query_QD), max(rows.shape[1] for rows in found)), -1, np.int64)
        for queries, rows in zip([shared] * (len(shared) > 0) + [[query] for query in own], found, strict=True):
            position_QK[queries, : rows.shape[1]] = rows
        score_QK = inner_products(self.kind, query_QW, position_QK)
        row_QK = position_QK if self.row_N is None else np.where(position_QK < 0, NO_ITEM, self.row_N[position_QK])
        return row_QK, score_QK

    def _nearest(
        self, query_QW: np.ndarray, k: int, bits: np.ndarray | None, num_allowed: int, num_forbidden: int = 0
    ) -> np.ndarray:
        """[Q, K'] positions; every query gets k of them while so many are allowed."""
        k = min(k, num_allowed)
        if k == 0:
            return np.empty((len(query_QW), 0), np.int64)
        selector = None if bits is None else faiss.IDSelectorBitmap(bits)  # pyright: ignore[reportCallIssue] FAISS wraps it so
        share = num_allowed / len(self)
        if share < EXACT_SHARE:
            return exactly_nearest(self.kind, query_QW, k, selector)
        # What a user may not see is often the nearest: it takes places in the breadth.
        broadened = (1 + num_forbidden / max(k, MEASURED_AT)) / share
        position_QK = self.kind.nearest(query_QW, k, selector, broadened)
        short = np.flatnonzero((position_QK >= 0).sum(1) < k)
        if len(short):
            position_QK[short] = -1
            position_QK[short, :k] = exactly_nearest(self.kind, query_QW[short], k, selector)
        return position_QK

    def _allowed(self, allowed_I: np.ndarray | None) -> tuple[np.ndarray | None, int]:
        """A bit for each position, as FAISS reads them, None for all; and how many are set."""
        if allowed_I is None:
            return self._alive_bits, self.num_alive
        row_N = np.arange(len(self)) if self.row_N is None else self.row_N
        inside = len(allowed_I) > row_N[-1]
        allowed_N = allowed_I[row_N] if inside else np.append(allowed_I, False)[np.minimum(row_N, len(allowed_I))]
        if self.alive_N is not None:
            allowed_N = allowed_N & self.alive_N
        return np.packbits(allowed_N, bitorder="little"), int(allowed_N.sum())

    @cached_property
    def _alive_bits(self) -> np.ndarray | None:
        return None if self.alive_N is None else np.packbits(self.alive_N, bitorder="little")

    def _without(
        self, bits: np.ndarray | None, num_allowed: int, positions: np.ndarray
    ) -> tuple[np.ndarray | None, int]:
        if not len(positions):
            return bits, num_allowed
        mine = np.full((len(self) + 7) // 8, 255, np.uint8) if bits is None else bits.copy()
        byte, bit = positions >> 3, (1 << (positions & 7)).astype(np.uint8)
        num_taken = int(np.count_nonzero(mine[byte] & bit))
        np.bitwise_and.at(mine, byte, ~bit)
        return mine, num_allowed - num_taken

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Positions of those rows that the part has."""
        if self.row_N is None:
            return rows[(rows >= 0) & (rows < len(self))]
        position = np.minimum(np.searchsorted(self.row_N, rows), len(self) - 1)
        return position[self.row_N[position] == rows]
