"""What people like this user took of late."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from typing import ClassVar, Self

import numpy as np

from retrieval.sources.source import NO_ITEM, Past, Proposals, Users, best_of_columns

# B users  K candidates  I items  M popular items  G segments of one trait
ACTIVITY = "activity"
ACTIVITY_FROM = np.array([1, 5, 20])
"""A user with fewer past interactions than the first is new; the others are more and more active."""
NUM_BINS = 5
"""Quantile bins of a number."""
MAX_SEGMENTS = 64
"""A trait with more values than this (a postal code) says little about each: it is left out."""
NUM_POPULAR = 2_000


@dataclass(frozen=True, eq=False)
class RecentPopularity:
    """Popularity that fades with time, and how far the user's segments depart from it.

    score(u, i) = log p(i) + strength * sum over traits t of log( p(i | t = t_u) / p(i) ): naive Bayes. Traits are how
    active the user has been and every attribute of users; p is shrunk: p(i | s) = (n_si + shrinkage p(i)) / (n_s +
    shrinkage), interactions weighted by 2 ** (-age / half-life). Only the NUM_POPULAR most popular items are proposed.
    """

    half_life_days: float
    strength: float = 1.0
    """How much the segments count; 0 is the same list for everybody."""
    shrinkage: float = 1_000.0
    popular_M: np.ndarray = field(default_factory=lambda: np.empty(0, np.int64))
    """Item rows, most popular first."""
    log_popularity_M: np.ndarray = field(default_factory=lambda: np.empty(0, np.float32))
    departure: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Trait -> [G, M]."""
    edges: Mapping[str, np.ndarray] = field(default_factory=dict)
    """Number among the traits -> where its bins begin, but for the first."""
    name: ClassVar[str] = "recent_popularity"
    scoring: ClassVar[tuple[str, ...]] = ("strength",)

    @classmethod
    def settings(cls, past: Past) -> Sequence[Self]:
        half_lives = [past.span_days / 2**halvings for halvings in range(1, 11)]
        return [cls(half, strength) for half, strength in product(half_lives, (0.0, 0.5, 1.0))]

    def fit(self, past: Past) -> Self:
        weight_E = past.weight(self.half_life_days)
        count_I = np.bincount(past.item_row, weight_E, past.num_items)
        popular_M = np.lexsort((np.arange(past.num_items), -count_I))[:NUM_POPULAR]
        popular_M = popular_M[count_I[popular_M] > 0]
        share_M = count_I[popular_M] / max(count_I.sum(), 1e-12)
        place_I = np.full(past.num_items, NO_ITEM)
        place_I[popular_M] = np.arange(len(popular_M))
        place_E = place_I[past.item_row]
        edges = {name: _edges(values) for name, values in past.users.items() if _is_number(values)}
        fitted = replace(self, popular_M=popular_M, log_popularity_M=np.log(share_M).astype(np.float32), edges=edges)
        departure = {}
        for name, segment_E in fitted._segments_of_past(past).items():
            departure[name] = _departure(segment_E, place_E, weight_E, share_M, self.shrinkage)
        return replace(fitted, departure=departure)

    def propose(self, users: Users, k: int) -> Proposals:
        score_BM = np.repeat(self.log_popularity_M[None], len(users), axis=0)
        for name in sorted(self.departure):  # the same sum to the bit, however a file keeps them
            segment_B = np.minimum(self._segment(name, users), len(self.departure[name]) - 1)
            score_BM += np.float32(self.strength) * self.departure[name][segment_B]
        return best_of_columns(score_BM, self.popular_M, users, k)

    @property
    def arrays(self) -> dict[str, np.ndarray]:
        arrays = {"settings": np.array([self.half_life_days, self.strength, self.shrinkage])}
        arrays |= {"popular": self.popular_M, "log_popularity": self.log_popularity_M}
        arrays |= {f"departure.{name}": values for name, values in self.departure.items()}
        return arrays | {f"edges.{name}": values for name, values in self.edges.items()}

    @classmethod
    def from_arrays(cls, arrays: Mapping[str, np.ndarray]) -> Self:
        def under(prefix: str) -> dict[str, np.ndarray]:
            return {name.removeprefix(prefix): values for name, values in arrays.items() if name.startswith(prefix)}

        return cls(
            *arrays["settings"].tolist(),
            popular_M=arrays["popular"],
            log_popularity_M=arrays["log_popularity"],
            departure=under("departure."),
            edges=under("edges."),
        )

    def _segments_of_past(self, past: Past) -> dict[str, np.ndarray]:
        """Trait -> [E] segment of the user of each interaction, when it happened."""
        segments = {ACTIVITY: _activity(past.place_in_history)}
        for name, values in past.users.items():
            segment_U = self._binned(name, values)
            if values.ndim == 1 and len(np.unique(segment_U)) > 1 and segment_U.max() < MAX_SEGMENTS:
                segments[name] = segment_U[past.user_row]
        return segments

    def _segment(self, name: str, users: Users) -> np.ndarray:
        if name == ACTIVITY:
            return _activity((users.history_BN != NO_ITEM).sum(1))
        return self._binned(name, users.features[name])

    def _binned(self, name: str, values: np.ndarray) -> np.ndarray:
        return np.searchsorted(self.edges[name], values, side="right") if name in self.edges else values


def _activity(num_events: np.ndarray) -> np.ndarray:
    return np.searchsorted(ACTIVITY_FROM, num_events, side="right")


def _is_number(values: np.ndarray) -> bool:
    return values.ndim == 1 and np.issubdtype(values.dtype, np.floating)


def _edges(values_U: np.ndarray) -> np.ndarray:
    return np.unique(np.quantile(values_U, np.arange(1, NUM_BINS) / NUM_BINS))


def _departure(
    segment_E: np.ndarray, place_E: np.ndarray, weight_E: np.ndarray, share_M: np.ndarray, shrinkage: float
) -> np.ndarray:
    """[G, M] log of a segment's share of each popular item over everybody's; the last segment has none."""
    num_segments = int(segment_E.max(initial=-1)) + 2
    total_G = np.bincount(segment_E, weight_E, num_segments)
    popular_E = place_E != NO_ITEM
    key_E = segment_E[popular_E] * len(share_M) + place_E[popular_E]
    count_GM = np.bincount(key_E, weight_E[popular_E], num_segments * len(share_M)).reshape(num_segments, -1)
    shrunk_GM = (count_GM + shrinkage * share_M) / (total_G[:, None] + shrinkage)
    return np.log(shrunk_GM / share_M).astype(np.float32)
