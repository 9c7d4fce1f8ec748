"""The contract of a candidate source: it is fitted on the past, and proposes items to users with a score of its own.

Whatever it scores, only its order counts for the merge, which learns how much to trust each source.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, ClassVar, Protocol, Self

import numpy as np
from scipy import sparse

from features.history import SECONDS_PER_DAY
from features.item_content import ItemContent
from retrieval.best_first import MARKS, fill_from_columns, mask_of
from retrieval.item_rows import NO_ITEM

# B users  N history length  K candidates  S forbidden items  I items  E interactions


@dataclass(frozen=True, eq=False)
class Past:
    """All that happened before a moment: what sources are fitted on."""

    user_row: np.ndarray
    """[E] int64, in the order of time."""
    item_row: np.ndarray
    """[E] int64."""
    timestamp: np.ndarray
    """[E] int64 Unix seconds, ascending."""
    num_users: int
    num_items: int
    users: Mapping[str, np.ndarray]
    """Encoded attributes of all users by name, [U] or [U, ...]: those that do not change with time."""
    may_repeat: bool = False
    """Whether people may be shown again what they had."""
    content: ItemContent | None = None
    """What the catalogue says of the items."""
    max_linear_items: int = 4_096
    """Most items of the linear model."""

    def before(self, moment: int) -> Past:
        """What of it happened before an earlier moment, in Unix seconds."""
        known = slice(0, int(np.searchsorted(self.timestamp, moment)))
        return replace(
            self, user_row=self.user_row[known], item_row=self.item_row[known], timestamp=self.timestamp[known]
        )

    def of_some_users(self, max_events: int, seed: int) -> Past:
        """All interactions of as many users, drawn at random, as have about max_events; itself if it has no more."""
        if len(self.user_row) <= max_events:
            return self
        share = max_events / len(self.user_row)
        kept = (np.random.default_rng(seed).random(self.num_users) < share)[self.user_row]
        return replace(self, user_row=self.user_row[kept], item_row=self.item_row[kept], timestamp=self.timestamp[kept])

    @cached_property
    def place_in_history(self) -> np.ndarray:
        """[E] how many interactions the user had before each one."""
        order = np.argsort(self.user_row, kind="stable")
        user = self.user_row[order]
        place = np.empty(len(user), np.int64)
        place[order] = np.arange(len(user)) - np.searchsorted(user, user)
        return place

    @cached_property
    def num_events(self) -> np.ndarray:
        """[I] interactions of each item."""
        return np.bincount(self.item_row, minlength=self.num_items)

    @property
    def span_days(self) -> float:
        """Days from the first interaction to the last."""
        return float(self.timestamp[-1] - self.timestamp[0] + 1) / SECONDS_PER_DAY if len(self.timestamp) else 0.0

    def weight(self, half_life_days: float) -> np.ndarray:
        """[E] in (0, 1]: halves with every half-life before the last interaction."""
        if not len(self.timestamp):
            return np.empty(0)
        return 0.5 ** ((self.timestamp[-1] - self.timestamp) / (half_life_days * SECONDS_PER_DAY))


@dataclass(frozen=True, eq=False)
class Users:
    """What is known of B users when they ask, the same in training and in serving."""

    features: Mapping[str, np.ndarray]
    """The USER features by name, encoded: [B] or [B, length]."""
    history_BN: np.ndarray
    """Item rows, the newest first; NO_ITEM pads."""
    forbidden_BS: np.ndarray
    """Item rows that must not be proposed; NO_ITEM pads."""
    query_BE: np.ndarray
    """The two-tower model's query vectors."""
    allowed_I: np.ndarray | None = None
    """[I] bool by item row, of what may be shown to anybody; None for everything."""

    def __len__(self) -> int:
        return len(self.history_BN)

    def some(self, rows: np.ndarray | slice) -> Users:
        """Some of the users."""
        if isinstance(rows, slice) and rows == slice(0, len(self)):
            return self
        features = {name: values[rows] for name, values in self.features.items()}
        return Users(features, self.history_BN[rows], self.forbidden_BS[rows], self.query_BE[rows], self.allowed_I)

    def votes(self, num_items: int, last_n: int, decay: float) -> sparse.csr_matrix:
        """[B, I] each user's last items, the newest with weight 1, each older one with `decay` of the one before."""
        history_BN = self.history_BN[:, :last_n]
        user, place = np.nonzero(history_BN != NO_ITEM)
        weight = fading(history_BN, decay)[place]
        return sparse.csr_matrix((weight, (user, history_BN[user, place])), (len(self), num_items))


@dataclass(frozen=True, eq=False)
class Proposals:
    """What one source proposes to B users."""

    row_BK: np.ndarray
    """int64 item rows, best first, none twice; NO_ITEM behind the last."""
    score_BK: np.ndarray
    """float32; -inf where there is no item."""

    @classmethod
    def nothing(cls, num_users: int, k: int) -> Proposals:
        return cls(np.full((num_users, k), NO_ITEM, np.int64), np.full((num_users, k), -np.inf, np.float32))

    @classmethod
    def padded(cls, row_BK: np.ndarray, score_BK: np.ndarray, k: int) -> Proposals:
        """From arrays of at most k columns."""
        if row_BK.shape[1] == k:
            return cls(row_BK, score_BK)
        missing = ((0, 0), (0, k - row_BK.shape[1]))
        return cls(np.pad(row_BK, missing, constant_values=NO_ITEM), np.pad(score_BK, missing, constant_values=-np.inf))


class CandidateSource(Protocol):
    """Proposes items to users."""

    name: ClassVar[str]

    def propose(self, users: Users, k: int) -> Proposals:
        """At most k items each. Row b depends on user b only, to the bit."""
        ...


class FittedSource(CandidateSource, Protocol):
    """A dataclass of settings, and of arrays that it learned; a file of arrays carries it to serving."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    scoring: ClassVar[tuple[str, ...]]
    """Settings that only `propose` reads: what was learned with others of them serves as well."""

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        """Settings to try on the validation part, the one to take where it cannot tell them apart first.

        Empty where the source cannot serve such a log.
        """
        ...

    def fit(self, past: Past) -> Self:
        """Learn; equal pasts give equal arrays."""
        ...

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        """What was learned, and the settings that `propose` needs; `from_arrays` takes it back."""
        ...

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self: ...


def settings_of(source: FittedSource) -> dict[str, Any]:
    """The settings by name, without what was learned."""
    values = {name: getattr(source, name) for name in source.__dataclass_fields__ if name != "name"}
    return {name: value for name, value in values.items() if isinstance(value, float | str)}


def matrix_arrays(matrix: sparse.csr_matrix) -> dict[str, np.ndarray]:
    return {"indptr": matrix.indptr, "indices": matrix.indices, "data": matrix.data}


def csr_of(arrays: Mapping[str, np.ndarray], num_columns: int, prefix: str = "") -> sparse.csr_matrix:
    """What `matrix_arrays` took apart."""
    data, indices, indptr = (arrays[f"{prefix}{part}"] for part in ("data", "indices", "indptr"))
    return sparse.csr_matrix((data, indices, indptr), (len(indptr) - 1, num_columns))


def square_matrix(arrays: Mapping[str, np.ndarray]) -> sparse.csr_matrix:
    return csr_of(arrays, len(arrays["indptr"]) - 1)


def fading(history_BN: np.ndarray, decay: float) -> np.ndarray:
    """[N] float32 weight of each place of a history: 1 for the newest, `decay` of the one before for each older one."""
    return (decay ** np.arange(history_BN.shape[1])).astype(np.float32)


def best_of_columns(score_BM: np.ndarray, item_M: np.ndarray, users: Users, k: int) -> Proposals:
    """The k best-scored items of each user among some that all are scored on; ties by item row.

    Args:
        score_BM: float32.
        item_M: int64 item rows of the columns.
    """
    found = Proposals.nothing(len(score_BM), k)
    mark_I = MARKS.of(int(item_M.max(initial=-1)) + 1)
    forbidden_BS = np.ascontiguousarray(users.forbidden_BS, np.int64)
    allowed_I = mask_of(users.allowed_I)
    fill_from_columns(score_BM, item_M, forbidden_BS, allowed_I, mark_I, found.row_BK, found.score_BK)
    return found


def best_of_rows(score: sparse.csr_matrix, users: Users, k: int) -> Proposals:
    """The k stored entries of each row with the highest score, without the forbidden columns; ties by column."""
    found = Proposals.nothing(score.shape[0], k)
    for user in range(score.shape[0]):
        stored = slice(score.indptr[user], score.indptr[user + 1])
        item, value = score.indices[stored], score.data[stored]
        kept = ~np.isin(item, users.forbidden_BS[user]) & (value > 0)
        if users.allowed_I is not None:
            kept &= users.allowed_I[item]
        item, value = item[kept], value[kept]
        order = np.lexsort((item, -value))[:k]
        found.row_BK[user, : len(order)], found.score_BK[user, : len(order)] = item[order], value[order]
    return found
