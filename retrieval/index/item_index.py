"""ItemIndex: the vectors of all items, searched with filters, changed while it serves, written to a folder and read.

Searches read one immutable state; a change makes a new one and puts it in its place in one step. So a search sees
all of a change or nothing of it, and never an old vector beside a new one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from retrieval.index.identity import DuplicateItemsError, IndexIdentity, UnfitIndexError, check_vectors
from retrieval.index.kinds import Flat, Kind
from retrieval.index.part import NO_ITEM, Part

# Q queries  D embedding  K candidates  I item rows  S forbidden  C changed items
COMPACT_AT = 0.05
"""Share of changed and deleted items from which `compact` pays: they are compared one by one at every search."""


@dataclass(frozen=True)
class State:
    """What one search sees."""

    base: Part
    changed: Part | None
    """Vectors that came after the base was built, compared exactly."""
    num_rows: int
    """Item rows given out so far, deleted ones included: an item keeps its row for ever."""

    @property
    def parts(self) -> list[Part]:
        return [self.base] if self.changed is None else [self.base, self.changed]

    def with_changes(self, rows: np.ndarray, vector_CD: np.ndarray | None) -> State:
        """After these items have these vectors, or are deleted."""
        base = self.base.without(rows)
        kept_rows = np.empty(0, np.int64)
        kept = np.empty((0, self.base.kind.dim), np.float32)
        if self.changed is not None and self.changed.row_N is not None:
            is_kept = ~np.isin(self.changed.row_N, rows)
            kept_rows, kept = self.changed.row_N[is_kept], self.changed.kind.vectors()[is_kept]
        if vector_CD is not None:
            kept_rows, kept = np.concatenate([kept_rows, rows]), np.concatenate([kept, vector_CD])
        order = np.argsort(kept_rows)
        changed = Part(Flat.of(kept[order]), kept_rows[order]) if len(order) else None
        return State(base, changed, max(self.num_rows, int(kept_rows.max(initial=-1)) + 1))

    def alive(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows, ascending, and vectors of the items that count."""
        vectors = [part.kind.vectors() for part in self.parts]
        vectors = [v if p.alive_N is None else v[p.alive_N] for v, p in zip(vectors, self.parts, strict=True)]
        rows = np.concatenate([part.alive_rows() for part in self.parts])
        order = np.argsort(rows)
        return rows[order], np.concatenate(vectors)[order]


class ItemIndex:
    """An index over items. Safe for any number of searching threads beside changing ones.

    Args:
        state: what there is to search.
        raw_ids: [I] raw item ids by row, text or int64; None where items are named by their rows.
        identity: whose vectors these are.
    """

    def __init__(
        self, state: State, raw_ids: pa.Array | pa.ChunkedArray | None = None, identity: IndexIdentity | None = None
    ) -> None:
        self._state = state
        self.identity = identity or IndexIdentity()
        self._raw_ids = raw_ids
        self._added: list[str | int] = []
        self._row_of: dict[str | int, int] | None = None
        self._changing, self._compacting = threading.RLock(), threading.Lock()
        self._journal: list[tuple[np.ndarray, np.ndarray | None]] | None = None

    @property
    def kind(self) -> Kind:
        return self._state.base.kind

    @property
    def dim(self) -> int:
        return self.kind.dim

    @property
    def num_rows(self) -> int:
        """Rows given out so far; deleted items keep theirs."""
        return self._state.num_rows

    def __len__(self) -> int:
        return sum(part.num_alive for part in self._state.parts)

    def search(
        self,
        query_QD: np.ndarray,
        k: int,
        *,
        forbidden: np.ndarray | None = None,
        allowed: np.ndarray | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:
        """The k items of highest inner product that may be shown, best first; equal scores by item row.

        A query's answer does not depend on the other queries of the call, bit for bit.

        Args:
            query_QD: float32.
            k: at most the number of items is returned.
            forbidden: [Q, S] item rows that a query must not get, padded with NO_ITEM; rows unknown here do no harm.
            allowed: [I] bool by item row, of what may be shown to anybody; rows beyond its end may not.
        Returns: item rows [Q, K] int64 and scores [Q, K] float32; NO_ITEM and -inf behind a query's last allowed item.
        Raises: ValueError if a shape does not fit.
        """
        state = self._state
        query_QD = np.ascontiguousarray(query_QD, dtype=np.float32)
        if query_QD.ndim != 2 or query_QD.shape[1] != state.base.kind.dim:
            raise ValueError(
                f"query_QD must be [Q, {state.base.kind.dim}] (the index's dimension), got {query_QD.shape}"
            )
        if forbidden is not None and (forbidden.ndim != 2 or len(forbidden) != len(query_QD)):
            raise ValueError(f"forbidden must be [Q, S] with Q = {len(query_QD)}, got {forbidden.shape}")
        if allowed is not None and (allowed.ndim != 1 or allowed.dtype != bool):
            raise ValueError(f"allowed must be [I] bool by item row, got {allowed.shape} {allowed.dtype}")
        k = min(k, sum(part.num_alive for part in state.parts))
        if not len(query_QD) or k < 1:
            return np.empty((len(query_QD), k), np.int64), np.empty((len(query_QD), k), np.float32)
        found = [part.search(query_QD, k, forbidden, allowed) for part in state.parts]
        if len(found) == 1:
            return found[0]
        row_QK, score_QK = (np.concatenate(pair, axis=1) for pair in zip(*found, strict=True))
        missing = max(0, k - row_QK.shape[1])
        row_QK = np.pad(row_QK, ((0, 0), (0, missing)), constant_values=NO_ITEM)
        score_QK = np.pad(score_QK, ((0, 0), (0, missing)), constant_values=-np.inf)
        order_QK = np.lexsort((row_QK, -score_QK), axis=1)[:, :k]
        return np.take_along_axis(row_QK, order_QK, 1), np.take_along_axis(score_QK, order_QK, 1)

    def only(self, allowed_I: np.ndarray) -> ItemIndex:
        """An index of the items of a mask [I] alone, for those who always ask with the same one. Rows stay; a change of
        this index does not reach it."""
        state = self._state
        base = state.base.only(allowed_I)
        changed = None if state.changed is None else state.changed.only(allowed_I)
        return ItemIndex(State(base, changed, state.num_rows), self._raw_ids, self.identity)

    def snapshot(self) -> tuple[State, pa.ChunkedArray | None]:
        """The state and the raw ids of its rows, of one moment."""
        with self._changing:
            return self._state, self.raw_ids()

    def put(self, raw_ids: Sequence[str | int], vector_CD: np.ndarray) -> np.ndarray:
        """Add items, or replace their vectors; every search that begins later sees it.

        Returns: [C] their rows: an item's own, also of one that was deleted, or the next free ones.
        Raises: DuplicateItemsError, OtherDimensionError, DivergedError; nothing is changed then.
        """
        vector_CD = np.asarray(vector_CD, np.float32)
        check_vectors(vector_CD, self.dim, "items put into the index", "take them from the model that serves")
        if len(raw_ids) != len(vector_CD):
            raise UnfitIndexError(f"needed a vector for each of {len(raw_ids)} items, got {len(vector_CD)}")
        check_unique(raw_ids, "items put into the index")
        with self._changing:
            row_of = self._rows()
            rows = []
            for raw_id in raw_ids:
                if raw_id not in row_of:
                    row_of[raw_id] = len(row_of)
                    self._added.append(raw_id)
                rows.append(row_of[raw_id])
            self._change(np.array(rows, np.int64), vector_CD)
        return np.array(rows, np.int64)

    def delete(self, raw_ids: Sequence[str | int]) -> None:
        """Delete items; no search that begins later finds them. Deleting twice does no harm.

        Raises: UnfitIndexError if the index has never had one of them.
        """
        with self._changing:
            row_of = self._rows()
            unknown = [raw_id for raw_id in raw_ids if raw_id not in row_of]
            if unknown:
                raise UnfitIndexError(
                    f"cannot delete {len(unknown)} items that the index has never had, the first is {unknown[0]!r}; "
                    "give raw item ids as the log has them"
                )
            self._change(np.array([row_of[raw_id] for raw_id in raw_ids], np.int64), None)

    def ids_of(self, rows: np.ndarray) -> list[str | int]:
        """Raw ids of item rows, deleted ones included."""
        ids = self.raw_ids()
        return list(range(self.num_rows)) if ids is None else ids.take(pa.array(rows)).to_pylist()

    def raw_ids(self) -> pa.ChunkedArray | None:
        """[I] raw ids by row; None where items are named by their rows and none was added."""
        if self._raw_ids is None:
            return pa.chunked_array([pa.array(list(self._rows()))]) if self._added else None
        first = self._raw_ids if isinstance(self._raw_ids, pa.ChunkedArray) else pa.chunked_array([self._raw_ids])
        return pa.chunked_array([*first.chunks, pa.array(self._added, first.type)])

    @property
    def changed_share(self) -> float:
        """Changed and deleted items against those of the base."""
        state = self._state
        num_dead = len(state.base) - state.base.num_alive
        return (num_dead + (len(state.changed) if state.changed else 0)) / len(state.base)

    @property
    def needs_compacting(self) -> bool:
        return self.changed_share > COMPACT_AT

    def compact(self, builder: Callable[[np.ndarray], Kind]) -> None:
        """Build the base anew from what counts now; rows stay. Searches and changes go on meanwhile, none is lost.

        Args:
            builder: takes vectors [N, D] and gives the kind to search them, as `retrieval.index.builder` makes it.
        """
        with self._compacting:
            with self._changing:
                state, self._journal = self._state, []
            try:
                rows, vector_ND = state.alive()
                is_whole = len(rows) and rows[-1] == len(rows) - 1
                rebuilt = State(Part(builder(vector_ND), None if is_whole else rows), None, state.num_rows)
                with self._changing:
                    for changed_rows, vector_CD in self._journal:
                        rebuilt = rebuilt.with_changes(changed_rows, vector_CD)
                    self._state = rebuilt
            finally:
                self._journal = None

    def _change(self, rows: np.ndarray, vector_CD: np.ndarray | None) -> None:
        if self._journal is not None:
            self._journal.append((rows, vector_CD))
        self._state = self._state.with_changes(rows, vector_CD)

    def _rows(self) -> dict[str | int, int]:
        if self._row_of is None:
            ids = range(self.num_rows) if self._raw_ids is None else self._raw_ids.to_pylist()
            self._row_of = {raw_id: row for row, raw_id in enumerate(ids)}
        return self._row_of


def check_unique(raw_ids: Sequence[str | int], where: object) -> None:
    """Refuse an item that stands twice.

    Raises: DuplicateItemsError naming it.
    """
    if len(set(raw_ids)) == len(raw_ids):
        return
    first_row: dict[str | int, int] = {}
    for row, raw_id in enumerate(raw_ids):
        if raw_id in first_row:
            raise DuplicateItemsError(
                f"{where}: item {raw_id!r} stands in rows {first_row[raw_id]} and {row}; keep one vector an item"
            )
        first_row[raw_id] = row
