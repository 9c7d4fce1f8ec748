"""A part of an index: vectors of known items, some of which no longer count, and the filtered search among them."""

from __future__ import annotations

import math
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
_SAME = np.empty(0, np.int64)
"""For the kernel: position n is item row n."""


@dataclass(frozen=True, eq=False)
class Mask:
    """Which of N positions may be found. Its arrays never change."""

    num_positions: int
    num_allowed: int
    allowed_N: np.ndarray | None
    """bool; None for all."""

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
        query_QW = self.kind.queries(query_QD)
        mask = self._mask(allowed_I)
        row_QK = np.full((len(query_QD), k), NO_ITEM, np.int64)
        score_QK = np.full(row_QK.shape, -np.inf, np.float32)
        mark_N = MARKS.of(len(self))
        vector_NW = view(self.kind.raw)
        row_N = _SAME if self.row_N is None else self.row_N
        nothing = np.empty(0, np.int64)
        # One by one: how FAISS breaks ties between codes may depend on the number of queries.
        for query in range(len(query_QD)):
            forbidden = nothing if forbidden_QS is None else self._positions(forbidden_QS[query])
            position_P = self._near(query_QW[query : query + 1], k, mask, forbidden)
            found = row_QK[query], score_QK[query]
            num = fill_best(position_P, vector_NW, query_QW[query], mask.kernel_N, forbidden, row_N, mark_N, *found)
            if num < k and len(position_P) < len(self):  # what was left of the approximate ones is too little
                taken = self._without(mask, np.unique(forbidden))
                if num < taken.num_allowed:
                    position_P = exactly_nearest(self.kind, query_QW[query : query + 1], k, taken.selector())[0]
                    fill_best(position_P, vector_NW, query_QW[query], mask.kernel_N, forbidden, row_N, mark_N, *found)
        return row_QK, score_QK

    def _near(self, query_1W: np.ndarray, k: int, mask: Mask, forbidden: np.ndarray) -> np.ndarray:
        """Positions that hold the k best allowed ones, among others that are not allowed."""
        share = mask.num_allowed / max(len(self), 1)
        depth = math.ceil((k + len(forbidden)) / max(share, EXACT_SHARE))
        if depth <= MOST_OVERFETCHED * max(k, MEASURED_AT):
            return self.kind.nearest(query_1W, min(depth, len(self)), None, 1.0)[0]
        taken = self._without(mask, np.unique(forbidden))
        k = min(k, taken.num_allowed)
        if not k:
            return np.empty(0, np.int64)
        share = taken.num_allowed / len(self)
        if share < EXACT_SHARE:
            return exactly_nearest(self.kind, query_1W, k, taken.selector())[0]
        # What a user may not see is often the nearest: it takes places in the breadth.
        broadened = (1 + len(forbidden) / max(k, MEASURED_AT)) / share
        return self.kind.nearest(query_1W, k, taken.selector(), broadened)[0]

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
        mask = Mask(len(self), num_allowed, allowed_N)
        self._last_mask[0] = (allowed_I, mask)
        return mask

    @cached_property
    def _last_mask(self) -> list[tuple[np.ndarray | None, Mask | None]]:
        return [(None, None)]

    def _without(self, mask: Mask, positions: np.ndarray) -> Mask:
        if not len(positions):
            return mask
        allowed_N = np.ones(len(self), bool) if mask.allowed_N is None else mask.allowed_N.copy()
        num_taken = int(np.count_nonzero(allowed_N[positions]))
        allowed_N[positions] = False
        return Mask(len(self), mask.num_allowed - num_taken, allowed_N)

    def _positions(self, rows: np.ndarray) -> np.ndarray:
        """Positions of those rows that the part has."""
        if self.row_N is None:
            return rows[(rows >= 0) & (rows < len(self))]
        position = np.minimum(np.searchsorted(self.row_N, rows), len(self) - 1)
        return position[self.row_N[position] == rows]
