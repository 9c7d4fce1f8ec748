"""Why an item is in a slate, and why it is not: read from the columns of the request path."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ensemble.operators.operator import Columns
from ensemble.what_if import Steps

# K candidates  k places of the slate
NO_ITEM = -1
SHOWN, FORBIDDEN, OUTRANKED, NOT_SCORED, NOT_PROPOSED = "shown", "forbidden", "outranked", "not_scored", "not_proposed"
"""Why an item is where it is: the last three of those that are not shown may be."""


@dataclass(frozen=True)
class Proposal:
    """A source that proposed an item."""

    source: str
    rank: int


@dataclass(frozen=True)
class Ranks:
    """Rank of an item after each stage, 1 is the best; None where it was not there."""

    merged: int | None
    ranked: int | None
    ordered: int | None


@dataclass(frozen=True)
class Filter:
    """What kept an item out of every search."""

    kind: str
    """seen, exclude, allow, rule or stock."""
    text: str


class Answered:
    """The columns of one user's run, by item.

    Args:
        source_names: in the order of `proposed_row`.
    """

    def __init__(self, steps: Steps, slate_row_k: np.ndarray, source_names: list[str]) -> None:
        self.steps, self._names = steps, source_names
        columns = steps.columns
        row_K, score_K = columns["candidate_row"][0], columns["score"][0]
        filled_K = row_K != NO_ITEM
        self.row_K, self.score_K = row_K[filled_K], score_K[filled_K]
        """Candidates in the order of retrieval, and their scores."""
        self.ranked_K = self.row_K[np.lexsort((self.row_K, -self.score_K))]
        """Item rows, the best-scored first."""
        self.slate_k = slate_row_k[slate_row_k != NO_ITEM]

    @property
    def columns(self) -> Columns:
        return self.steps.columns

    def score(self, row: int) -> float | None:
        """None of an item that is no candidate."""
        place = _place(self.row_K, row)
        return None if place is None else float(self.score_K[place - 1])

    def ranks(self, row: int) -> Ranks:
        return Ranks(*(_place(rows, row) for rows in (self.steps.merged_row_K, self.ranked_K, self.slate_k)))

    def proposals(self, row: int) -> list[Proposal]:
        """The sources that proposed an item, the best rank first."""
        found = [(name, _place(row_Q, row)) for name, row_Q in zip(self._names, self.proposed_SQ, strict=True)]
        return sorted((Proposal(name, rank) for name, rank in found if rank), key=lambda one: one.rank)

    @property
    def proposed_SQ(self) -> np.ndarray:
        return self.columns["proposed_row"][0]


def _place(rows: np.ndarray, row: int) -> int | None:
    """1 for the first."""
    found = np.flatnonzero(rows == row)
    return int(found[0]) + 1 if len(found) else None
