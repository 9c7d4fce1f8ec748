"""A part of an index: vectors of known items, some of which no longer count, and the filtered search among them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np

from retrieval.best_first import MARKS, mask_of
from retrieval.index.kinds import MEASURED_AT, Kind, exactly_nearest, view
from retrieval.index.products import fill_best

# Q queries  D embedding  K candidates  N vectors of the part  I item rows  S forbidden
NO_ITEM = -1
EXACT_SHARE = 0.05
"""Where the filters let less than this share through, the part is searched exactly: the graph or the cells would have
to be searched so broadly that it takes as long."""
MOST_OVERFETCHED = 4
"""Up to so many times the items wanted are found without a filter and filtered then: a selector makes FAISS's scan of
codes ten times as slow."""
_STEP = 32
"""Forbidden items of a query are counted in steps of so many."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which of N positions may be found. Its arrays never change."""

    num_allowed: int
    allowed_N: np.ndarray | None
    """bool; None for all."""
    num_taken: int = 0
    """How many positions one query may not have beside what nobody may."""

    @property
    def kernel_N(self) -> np.ndarray:
        """As the kernels take it: one without entries allows everything."""
        return mask_of(self.allowed_N)

    @cached_property
    def _bits(self) -> np.ndarray | None:
        return None if self.allowed_N is None else np.packbits(self.allowed_N, bitorder="little")

    def selector(self) -> Any:
        """For FAISS; None for everything."""
        return None if self._bits is None else faiss.IDSelectorBitmap(self._bits)  # pyright: ignore[reportCallIssue]


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
        position = position[position != NO_ITEM]
        if not len(position):
            return self
        alive_N = np.ones(len(self), bool) if self.alive_N is None else self.alive_N.copy()
        alive_N[position] = False
        return Part(self.kind, self.row_N, alive_N)

    def only(self, allowed_I: np.ndarray) -> Part:
        """The items of a mask alone, in a part of their own: what is always searched with the same mask."""
        position = np.flatnonzero(self._mask(allowed_I).kernel_N)
        row_N = position if self.row_N is None else self.row_N[position]
        return Part(self.kind.subset(position), row_N)

    def search(
        self, query_QD: np.ndarray, k: int, forbidden_QS: np.ndarray | None, allowed_I: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray]:
        """Item rows [Q, k] and scores [Q, k], best first, equal scores by row; NO_ITEM and -inf in empty places."""
        mask = self._mask(allowed_I)
        query_QW = np.ascontiguousarray(self.kind.queries(query_QD))
        forbidden_QS = np.empty((len(query_QD), 0), np.int64) if forbidden_QS is None else self._positions(forbidden_QS)
        row_QK = np.full((len(query_QD), k), NO_ITEM, np.int64)
        score_QK = np.full(row_QK.shape, -np.inf, np.float32)
        given = self._vector_NW, query_QW, mask.kernel_N, forbidden_QS, self._kernel_row_N, MARKS.of(len(self))
        for asked, position_AP in self._near(query_QW, k, mask, forbidden_QS):
            num_A = fill_best(asked, position_AP, *given, row_QK, score_QK)
            if position_AP.shape[1] == len(self):
                continue
            for place in np.flatnonzero(num_A < k):  # what was left of the approximate ones may be too little
                one = asked[place : place + 1]
                taken = self._without(mask, forbidden_QS[one[0]])
                if num_A[place] < taken.num_allowed:
                    position_1P = exactly_nearest(self.kind, query_QW[one], k, taken.selector())
                    fill_best(one, position_1P, *given, row_QK, score_QK)
        return row_QK, score_QK

    def _near(
        self, query_QW: np.ndarray, k: int, mask: Mask, forbidden_QS: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Some of the queries [A] at a time, with positions [A, P] that hold each one's k best allowed ones, among
        others that are not allowed. What is found for a query does not depend on the others."""
        share = max(mask.num_allowed / max(len(self), 1), EXACT_SHARE)
        by_depth: dict[int, list[int]] = {}
        for query, num_forbidden in enumerate((forbidden_QS != NO_ITEM).sum(1).tolist()):
            # Rounded up, so that those with a few forbidden items more or less are searched together.
            depth = math.ceil((k + -(-num_forbidden // _STEP) * _STEP) / share)
            by_depth.setdefault(depth, []).append(query)
        for depth, queries in by_depth.items():
            asked = np.array(queries)
            if depth <= MOST_OVERFETCHED * max(k, MEASURED_AT):
                yield asked, self.kind.nearest(query_QW[asked], min(depth, len(self)), None, 1.0)
                continue
            for query in queries:
                taken = self._without(mask, forbidden_QS[query])
                yield np.array([query]), self._allowed_near(query_QW[query : query + 1], k, taken)

    def _allowed_near(self, query_1W: np.ndarray, k: int, taken: Mask) -> np.ndarray:
        """Positions [1, P] of the k nearest that the mask allows."""
        k = min(k, taken.num_allowed)
        if not k:
            return np.empty((1, 0), np.int64)
        share = taken.num_allowed / len(self)
        if share < EXACT_SHARE:
            return exactly_nearest(self.kind, query_1W, k, taken.selector())
        # What a user may not see is often the nearest: it takes places in the breadth.
        broadened = (1 + taken.num_taken / max(k, MEASURED_AT)) / share
        return self.kind.nearest(query_1W, k, taken.selector(), broadened)

    def _mask(self, allowed_I: np.ndarray | None) -> Mask:
        """What both the caller and the part allow; the same array gives the same Mask, made once."""
        last_I, mask = self._last_mask[0]
        if mask is not None and last_I is allowed_I:
            return mask
        row_N = np.arange(len(self)) if self.row_N is None else self.row_N
        allowed_N = None
        if allowed_I is not None:
            is_inside = not len(row_N) or len(allowed_I) > row_N[-1]
            allowed_N = (
                allowed_I[row_N] if is_inside else np.append(allowed_I, False)[np.minimum(row_N, len(allowed_I))]
            )
        if self.alive_N is not None:
            allowed_N = self.alive_N if allowed_N is None else allowed_N & self.alive_N
        num_allowed = len(self) if allowed_N is None else int(allowed_N.sum())
        mask = Mask(num_allowed, allowed_N)
        self._last_mask[0] = (allowed_I, mask)
        return mask

    @cached_property
    def _last_mask(self) -> list[tuple[np.ndarray | None, Mask | None]]:
        return [(None, None)]

    def _without(self, mask: Mask, positions: np.ndarray) -> Mask:
        """The mask without some positions, in which NO_ITEM pads."""
        positions = np.unique(positions[positions != NO_ITEM])
        if not len(positions):
            return mask
        allowed_N = np.ones(len(self), bool) if mask.allowed_N is None else mask.allowed_N.copy()
        num_allowed = mask.num_allowed - int(np.count_nonzero(allowed_N[positions]))
        allowed_N[positions] = False
        return Mask(num_allowed, allowed_N, len(positions))

    @cached_property
    def _vector_NW(self) -> np.ndarray:
        return view(self.kind.raw)

    @cached_property
    def _kernel_row_N(self) -> np.ndarray:
        """For the kernel: without entries, position n is item row n."""
        return np.empty(0, np.int64) if self.row_N is None else self.row_N

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Positions of rows, in the same shape; NO_ITEM for those that the part does not have."""
        if self.row_N is None:
            return np.where(rows < len(self), rows, NO_ITEM)
        position = np.minimum(np.searchsorted(self.row_N, rows), len(self) - 1)
        return np.where(self.row_N[position] == rows, position, NO_ITEM)
