"""The reward model of DM and DR: rate of the context times ratio of the item, each drawn towards the mean.

A round is foretold by a model that has not seen it: rounds are dealt into folds, and the table of a fold is fitted on
the others. DR then needs no assumption on the model (Chernozhukov et al., "Double/debiased machine learning",
Econometrics Journal 2018).
"""

from __future__ import annotations

import numpy as np

# N rounds  C contexts, such as places of a slate  I items  F folds
NUM_FOLDS = 5
PRIOR_ROUNDS = 20.0
"""Rounds with the mean reward that every context gets beside its own."""
PRIOR_REWARDS = 1.0
"""Rewards as foretold by the contexts alone that every item gets beside its own."""


def reward_tables(
    context_N: np.ndarray, item_N: np.ndarray, reward_N: np.ndarray, fold_N: np.ndarray, shape: tuple[int, ...]
) -> np.ndarray:
    """[F, C, I] mean rewards; a round of fold f is foretold by table f, which has not seen the fold.

    Args:
        context_N, item_N: int64 numbers from 0.
        fold_N: 0..F - 1; rounds that depend on each other belong into one.
        shape: C and I.
    """
    num_contexts, num_items = shape
    tables = []
    for fold in range(int(fold_N.max()) + 1):
        seen = fold_N != fold
        context, item, reward = context_N[seen], item_N[seen], reward_N[seen]
        mean = reward.mean() if len(reward) else 0.0
        rate_C = np.bincount(context, reward, num_contexts) + PRIOR_ROUNDS * mean
        rate_C /= np.bincount(context, minlength=num_contexts) + PRIOR_ROUNDS
        foretold_I = np.bincount(item, rate_C[context], num_items)
        ratio_I = (np.bincount(item, reward, num_items) + PRIOR_REWARDS) / (foretold_I + PRIOR_REWARDS)
        tables.append(rate_C[:, None] * ratio_I)
    return np.stack(tables)


def folds(group_N: np.ndarray, seed: int, num_folds: int = NUM_FOLDS) -> np.ndarray:
    """[N] fold of each round, the same for all of a group.

    Args:
        group_N: int64 from 0.
    """
    num = int(group_N.max(initial=-1)) + 1
    return (np.random.default_rng(seed).permutation(num) % min(num_folds, max(num, 1)))[group_N]
