"""Ranking metrics over the full catalogue, one value a user: means and bootstrap intervals come from the same numbers.

Every per-user metric takes `ranked_BK` (int64 item rows, best first, -1 marks an empty slot, no item twice) and the
relevant items of the same B users, and returns float64 [B] with nan for a user who has no relevant item. All raise
ValueError if k is outside 1..K, if the lengths differ or if a user's row repeats an item.

Source of all: Krichene & Rendle, "On sampled metrics for item recommendation", KDD 2020: rank the full catalogue, never
sampled negatives.
"""

# B users  K ranked slots  S bootstrap samples  N items of the catalogue

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

_RESAMPLED_PER_CHUNK = 4_000_000
_NO_ITEM = -1


@dataclass(frozen=True)
class RelevantItems:
    """The distinct held-out items of each user, as compressed rows; build it with `from_pairs` or `from_lists`."""

    indptr: np.ndarray
    """[B + 1] where each user's items begin and end."""
    item_row: np.ndarray
    """[number of relevant items] item rows, ascending within a user."""

    @classmethod
    def from_pairs(cls, user: np.ndarray, item_row: np.ndarray, num_users: int) -> RelevantItems:
        """From (user, item) pairs in any order; a repeated pair counts once.

        Args:
            user: [pairs] position of the user among the B users, 0..num_users - 1.
            item_row: [pairs] item rows, 0 or more.
            num_users: B.
        Raises: ValueError if a user or an item is out of range.
        """
        user, item_row = np.asarray(user, np.int64), np.asarray(item_row, np.int64)
        if user.shape != item_row.shape or user.ndim != 1:
            raise ValueError(
                f"user and item_row must be two flat arrays of one length, got {user.shape}, {item_row.shape}"
            )
        if len(user) and (user.min() < 0 or user.max() >= num_users or item_row.min() < 0):
            raise ValueError(
                f"users must lie in 0..{num_users - 1} and items be 0 or more, got users {user.min()}..{user.max()} "
                f"and items from {item_row.min()}"
            )
        order = np.lexsort((item_row, user))
        user, item_row = user[order], item_row[order]
        first = np.ones(len(user), bool)
        first[1:] = (user[1:] != user[:-1]) | (item_row[1:] != item_row[:-1])
        indptr = np.concatenate([[0], np.bincount(user[first], minlength=num_users).cumsum()])
        return cls(indptr.astype(np.int64), item_row[first])

    @classmethod
    def from_lists(cls, items: Sequence[Sequence[int] | np.ndarray]) -> RelevantItems:
        """From one array of item rows for each user."""
        lengths = [len(one) for one in items]
        flat = np.concatenate([np.asarray(one, np.int64) for one in items]) if items else np.zeros(0, np.int64)
        return cls.from_pairs(np.repeat(np.arange(len(items)), lengths), flat, len(items))

    @property
    def num_users(self) -> int:
        return len(self.indptr) - 1

    @property
    def count(self) -> np.ndarray:
        """[B] number of relevant items of each user."""
        return np.diff(self.indptr)

    @property
    def user(self) -> np.ndarray:
        """[number of relevant items] whose item it is."""
        return np.repeat(np.arange(self.num_users), self.count)

    def where(self, kept: np.ndarray) -> RelevantItems:
        """The same users with only some of their items.

        Args:
            kept: [number of relevant items] bool, aligned with `item_row`.
        """
        return RelevantItems.from_pairs(self.user[kept], self.item_row[kept], self.num_users)


Relevant = RelevantItems | Sequence[Sequence[int] | np.ndarray]


def recall_at_k(ranked_BK: np.ndarray, relevant: Relevant, k: int) -> np.ndarray:
    """Share of the user's relevant items found in the first k; [B] in [0, 1]."""
    hit_BK, count = _hits(ranked_BK, relevant, k)
    return _divided(hit_BK.sum(axis=1), count)


def hit_rate_at_k(ranked_BK: np.ndarray, relevant: Relevant, k: int) -> np.ndarray:
    """1 where at least one relevant item is in the first k, else 0; [B]."""
    hit_BK, count = _hits(ranked_BK, relevant, k)
    return np.where(count > 0, hit_BK.any(axis=1).astype(np.float64), np.nan)


def ndcg_at_k(ranked_BK: np.ndarray, relevant: Relevant, k: int) -> np.ndarray:
    """Discounted gain of the first k over that of the best possible k, gains 0 or 1; [B] in [0, 1].

    DCG = sum over hits of 1 / log2(rank + 1), rank 1 is best; the ideal has min(k, relevant items) hits on top.
    Source: Järvelin & Kekäläinen, "Cumulated gain-based evaluation of IR techniques", TOIS 2002.
    """
    hit_BK, count = _hits(ranked_BK, relevant, k)
    discount_K = 1.0 / np.log2(np.arange(2, k + 2))
    ideal = np.concatenate([[0.0], discount_K.cumsum()])[np.minimum(count, k)]
    return _divided((hit_BK * discount_K).sum(axis=1), ideal)


def mrr_at_k(ranked_BK: np.ndarray, relevant: Relevant, k: int) -> np.ndarray:
    """1 / rank of the first relevant item, 0 if none is among the first k; [B] in [0, 1].

    Source: Voorhees, "The TREC-8 question answering track report", 1999.
    """
    hit_BK, count = _hits(ranked_BK, relevant, k)
    reciprocal = hit_BK.any(axis=1) / (hit_BK.argmax(axis=1) + 1.0)
    return np.where(count > 0, reciprocal, np.nan)


def map_at_k(ranked_BK: np.ndarray, relevant: Relevant, k: int) -> np.ndarray:
    """Average precision at the hits among the first k, divided by min(k, relevant items); [B] in [0, 1].

    Source: the H&M Personalized Fashion Recommendations competition, 2022, "Evaluation" (there k = 12).
    """
    hit_BK, count = _hits(ranked_BK, relevant, k)
    precision_BK = hit_BK.cumsum(axis=1) / np.arange(1, k + 1)
    return _divided((precision_BK * hit_BK).sum(axis=1), np.minimum(count, k))


def novelty_at_k(ranked_BK: np.ndarray, item_counts: np.ndarray, k: int) -> np.ndarray:
    """Mean self-information -log2(share) in bits of the user's first k items; [B], nan for an empty row.

    Args:
        ranked_BK: item rows, best first, -1 pads.
        item_counts: [N] training interactions of each item. The share of item i is (count_i + 1) / (sum + N): the
            added one keeps an item without interactions finite.
        k: cut-off, 1 <= k <= K.
    Source: Zhou et al., "Solving the apparent diversity-accuracy dilemma of recommender systems", PNAS 2010.
    """
    top_BK = _first_k(ranked_BK, k)
    _check_rows(top_BK, len(item_counts))
    share_N = (item_counts + 1.0) / (item_counts.sum() + len(item_counts))
    filled_BK = top_BK != _NO_ITEM
    information_BK = np.where(filled_BK, -np.log2(share_N)[top_BK], 0.0)
    return _divided(information_BK.sum(axis=1), filled_BK.sum(axis=1))


def coverage_at_k(ranked_BK: np.ndarray, num_items: int, k: int) -> float:
    """Share of the catalogue that is in at least one user's first k; in [0, 1]."""
    return float(np.count_nonzero(_exposure(ranked_BK, num_items, k)) / num_items)


def gini_at_k(ranked_BK: np.ndarray, num_items: int, k: int) -> float:
    """Inequality of how often the catalogue's items are in the first k: 0 all alike, near 1 one item only.

    Gini = sum over items, rarest first, of (2 i - N - 1) x_i / (N sum x), i = 1..N; nan if nothing was shown.
    Source: Fleder & Hosanagar, "Blockbuster culture's next rise or fall", Management Science 2009.
    """
    exposure_N = np.sort(_exposure(ranked_BK, num_items, k))
    if not exposure_N.any():
        return float("nan")
    weight_N = 2.0 * np.arange(1, num_items + 1) - num_items - 1
    return float((weight_N * exposure_N).sum() / (num_items * exposure_N.sum()))


@dataclass(frozen=True)
class Interval:
    """A mean over users with its bootstrap interval; all nan if no user has a value."""

    mean: float
    low: float
    high: float
    num_users: int


def bootstrap_interval(values: np.ndarray, num_samples: int = 1000, *, seed: int, level: float = 0.95) -> Interval:
    """Mean over users and its percentile interval when users are drawn again with replacement.

    Args:
        values: [B] one value a user; nan users are left out.
        num_samples: resamples S.
        seed: of the resampling; the same seed and values give the same interval.
        level: probability inside the interval, in (0, 1).
    Raises: ValueError if num_samples < 1 or level is outside (0, 1).
    Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 13.
    """
    _check_bootstrap(num_samples, level)
    known = np.asarray(values, np.float64)
    known = known[~np.isnan(known)]
    if not len(known):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    low, high = np.quantile(_resampled_means(known, num_samples, seed), [(1 - level) / 2, (1 + level) / 2])
    return Interval(float(known.mean()), float(low), float(high), len(known))


def bootstrap_difference(
    ours: np.ndarray, theirs: np.ndarray, num_samples: int = 1000, *, seed: int, level: float = 0.95
) -> Interval:
    """Mean of `ours - theirs` with its interval; both must hold the same users in the same order.

    Pairing by user removes the spread between users, so the interval is that of the difference and not of two means.

    Raises: ValueError if the lengths differ, or as `bootstrap_interval`.
    """
    mine, other = _paired(ours, theirs)
    return bootstrap_interval(mine - other, num_samples, seed=seed, level=level)


def bootstrap_ratio(
    ours: np.ndarray, theirs: np.ndarray, num_samples: int = 1000, *, seed: int, level: float = 0.95
) -> Interval:
    """Mean of `ours` over mean of `theirs` with its interval, both means of the same users in each resample.

    `mean` of the result is the ratio of the two means. It and the ends may be infinite, where the mean of `theirs` is
    0 and that of `ours` is not, or nan where both are; a resample in which both are 0 says nothing and is left out.
    Users with a nan on either side are left out.

    Raises: ValueError if the lengths differ, or as `bootstrap_interval`.
    Source: Efron & Tibshirani, "An introduction to the bootstrap", 1993, ch. 10.3, a ratio of two means of one sample.
    """
    _check_bootstrap(num_samples, level)
    pair_B2 = np.stack(_paired(ours, theirs), axis=1)
    pair_B2 = pair_B2[~np.isnan(pair_B2).any(axis=1)]
    if not len(pair_B2):
        return Interval(float("nan"), float("nan"), float("nan"), 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio_S = np.divide(*(_resampled_means(side_B, num_samples, seed) for side_B in pair_B2.T))
        ratio = float(np.divide(*pair_B2.mean(axis=0)))
    ratio_S = ratio_S[~np.isnan(ratio_S)]
    if not len(ratio_S):
        return Interval(ratio, float("nan"), float("nan"), len(pair_B2))
    # A quantile that is a sample itself: between a finite and an infinite ratio nothing can be interpolated.
    low, high = np.quantile(ratio_S, [(1 - level) / 2, (1 + level) / 2], method="nearest")
    return Interval(ratio, float(low), float(high), len(pair_B2))


def _check_bootstrap(num_samples: int, level: float) -> None:
    if num_samples < 1 or not 0 < level < 1:
        raise ValueError(f"num_samples must be 1 or more and level in (0, 1), got {num_samples} and {level}")


def _paired(ours: np.ndarray, theirs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    if np.shape(ours) != np.shape(theirs):
        raise ValueError(
            f"a paired comparison needs the same users on both sides, got {np.shape(ours)}, {np.shape(theirs)}"
        )
    return np.asarray(ours, np.float64), np.asarray(theirs, np.float64)


def _hits(ranked_BK: np.ndarray, relevant: Relevant, k: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each of the first k slots holds a relevant item, bool [B, k]; and each user's relevant items, [B]."""
    if not isinstance(relevant, RelevantItems):
        relevant = RelevantItems.from_lists(relevant)
    top_BK = _first_k(ranked_BK, k)
    if len(top_BK) != relevant.num_users:
        raise ValueError(f"ranked_BK has {len(top_BK)} users but relevant has {relevant.num_users}; align them by user")
    _check_no_repeats(top_BK)
    # (user, item) pairs as one integer each, in ascending order because the rows of `relevant` are.
    stride = max(int(top_BK.max(initial=0)), int(relevant.item_row.max(initial=0))) + 1
    wanted = relevant.user * stride + relevant.item_row
    if not len(wanted):
        return np.zeros(top_BK.shape, bool), relevant.count
    pair_BK = np.arange(len(top_BK))[:, None] * stride + top_BK
    place_BK = np.minimum(np.searchsorted(wanted, pair_BK), len(wanted) - 1)
    return (wanted[place_BK] == pair_BK) & (top_BK != _NO_ITEM), relevant.count


def _first_k(ranked_BK: np.ndarray, k: int) -> np.ndarray:
    if ranked_BK.ndim != 2 or not np.issubdtype(ranked_BK.dtype, np.integer):
        raise ValueError(f"ranked_BK must be a matrix of integer item rows, got {ranked_BK.dtype} {ranked_BK.shape}")
    if not 1 <= k <= ranked_BK.shape[1]:
        raise ValueError(f"k must lie in 1..{ranked_BK.shape[1]} (the columns of ranked_BK), got {k}")
    return ranked_BK[:, :k].astype(np.int64, copy=False)


def _check_no_repeats(top_BK: np.ndarray) -> None:
    sorted_BK = np.sort(top_BK, axis=1)
    repeated_B = ((sorted_BK[:, 1:] == sorted_BK[:, :-1]) & (sorted_BK[:, 1:] != _NO_ITEM)).any(axis=1)
    if repeated_B.any():
        user = int(repeated_B.argmax())
        raise ValueError(
            f"row {user} of ranked_BK repeats an item, which would count a hit twice: {top_BK[user].tolist()}"
        )


def _check_rows(top_BK: np.ndarray, num_items: int) -> None:
    if top_BK.size and not (top_BK.min() >= -1 and top_BK.max() < num_items):
        raise ValueError(f"item rows must lie in -1..{num_items - 1}, got {top_BK.min()}..{top_BK.max()}")


def _exposure(ranked_BK: np.ndarray, num_items: int, k: int) -> np.ndarray:
    top_BK = _first_k(ranked_BK, k)
    _check_rows(top_BK, num_items)
    return np.bincount(top_BK[top_BK != _NO_ITEM], minlength=num_items)


def _divided(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """nan where the denominator is 0."""
    out = np.full(len(numerator), np.nan)
    return np.divide(numerator, denominator, out=out, where=denominator > 0)


def _resampled_means(known: np.ndarray, num_samples: int, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    means = np.empty(num_samples)
    chunk = max(1, _RESAMPLED_PER_CHUNK // len(known))
    for start in range(0, num_samples, chunk):
        stop = min(start + chunk, num_samples)
        drawn_SB = rng.integers(0, len(known), (stop - start, len(known)), dtype=np.int32)
        means[start:stop] = known[drawn_SB].mean(axis=1)
    return means
