"""Recall by cohort: users by length of history, items by popularity, items that nobody had before."""

# B test users  K ranked slots  N items of the catalogue

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pipelines.baselines import Events, HeldOut
from pipelines.evaluation_config import EvaluationConfig
from pipelines.evaluation_world import interval
from retrieval.metrics import RelevantItems, recall_at_k

HISTORY_FROM = (0, 1, 5, 20, 100)
"""Where each cohort of users begins, in interactions before the test period."""

NUM_TENTHS = 10

NEVER_SEEN = "never seen"

Cohorts = dict[str, dict[str, Any]]


def history_cohorts(num_known_B: np.ndarray) -> dict[str, np.ndarray]:
    """Which users have a history of which length.

    Args:
        num_known_B: interactions of each user before the test period.
    Returns: name such as "5-19" -> bool [B]; every user is in exactly one.
    """
    cohorts = {}
    for place, low in enumerate(HISTORY_FROM):
        last = place + 1 == len(HISTORY_FROM)
        high = np.iinfo(np.int64).max if last else HISTORY_FROM[place + 1] - 1
        name = f"{low}+" if last else str(low) if low == high else f"{low}-{high}"
        cohorts[name] = (num_known_B >= low) & (num_known_B <= high)
    return cohorts


def popularity_tenths(item_counts_N: np.ndarray) -> np.ndarray:
    """Tenth of the interactions that each item belongs to, the most popular items first.

    Tenths are of interactions, not of items: in a long tail the last tenths by items would hold a handful of
    interactions each, too few to measure. Items with equally many interactions stay together, in the tenth in which
    the middle of their joint interactions lies, so that no tie is cut by chance; a tenth may be empty for it.

    Args:
        item_counts_N: interactions of each item.
    Returns: [N] 1 (most popular) .. 10, and 0 for an item without an interaction.
    """
    count, group_N = np.unique(-item_counts_N, return_inverse=True)
    interactions = np.bincount(group_N) * -count
    middle = interactions.cumsum() - interactions / 2
    tenth = np.floor(NUM_TENTHS * middle / max(interactions.sum(), 1)).astype(np.int64) + 1
    return np.where(item_counts_N > 0, np.minimum(tenth, NUM_TENTHS)[group_N], 0)


def recall_by_cohort(
    rankings: Mapping[str, np.ndarray], users: HeldOut, config: EvaluationConfig, seed: int
) -> dict[str, Cohorts]:
    """Recall at candidate_k of each system in each cohort.

    Args:
        rankings: system -> [B, K] item rows.
        users: the test users; of a cohort of items only their relevant items in it count.
    Returns: "users_by_history" and "items_by_popularity", each cohort -> num_users (those with a relevant item
        there), num_items (cohorts of items), recall (system -> mean with interval).
    """
    k, known = config.candidate_k, users.seen
    values = {system: recall_at_k(ranked_BK, users.relevant, k) for system, ranked_BK in rankings.items()}
    by_history: Cohorts = {
        name: {
            "num_users": int(chosen_B.sum()),
            "recall": {system: interval(one[chosen_B], config, seed) for system, one in values.items()},
        }
        for name, chosen_B in history_cohorts(num_known(known, users.user_rows)).items()
        if chosen_B.any()
    }
    tenth_N = popularity_tenths(known.item_counts)
    by_popularity: Cohorts = {}
    for tenth in (*range(1, NUM_TENTHS + 1), 0):
        relevant = users.relevant.where(tenth_N[users.relevant.item_row] == tenth)
        if relevant.count.any():
            by_popularity[f"tenth {tenth}" if tenth else NEVER_SEEN] = {
                "num_users": int((relevant.count > 0).sum()),
                "num_items": int((tenth_N == tenth).sum()),
                "recall": recalls(rankings, relevant, config, seed),
            }
    return {"users_by_history": by_history, "items_by_popularity": by_popularity}


def recalls(
    rankings: Mapping[str, np.ndarray], relevant: RelevantItems, config: EvaluationConfig, seed: int
) -> dict[str, Mapping[str, Any]]:
    """Recall at candidate_k of each system, means with intervals."""
    k = config.candidate_k
    return {
        system: interval(recall_at_k(ranked_BK, relevant, k), config, seed) for system, ranked_BK in rankings.items()
    }


def num_known(known: Events, user_rows: np.ndarray) -> np.ndarray:
    """[B] interactions of each user, repeats counted."""
    return np.bincount(known.user_row, minlength=known.num_users)[user_rows]
