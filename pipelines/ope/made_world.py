"""A world in which every policy's value is known: contexts, items, click probabilities, two softmax policies."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pipelines.ope.estimators import Rounds
from pipelines.ope.reward_model import folds, reward_tables

# N rounds  C contexts  I items


@dataclass(frozen=True, eq=False)
class MadeWorld:
    """One world; `made_world` draws it."""

    share_C: np.ndarray
    """How often a context comes."""
    click_CI: np.ndarray
    """Click probabilities."""
    logging_CI: np.ndarray
    """Probabilities of the policy that decides the rounds."""
    evaluated_CI: np.ndarray
    """Those of the other one."""

    @property
    def truth(self) -> float:
        """What the evaluated policy earns a round, exactly."""
        return float(self.share_C @ (self.evaluated_CI * self.click_CI).sum(1))

    def rounds(self, num_rounds: int, rng: np.random.Generator) -> Rounds:
        """Draw a log, with the cross-fitted reward model on it."""
        shape = self.click_CI.shape
        context_N = rng.choice(shape[0], num_rounds, p=self.share_C)
        drawn_N = rng.random(num_rounds)[:, None] > self.logging_CI.cumsum(1)[context_N]
        item_N = np.minimum(drawn_N.sum(1), shape[1] - 1)
        click_N = (rng.random(num_rounds) < self.click_CI[context_N, item_N]).astype(np.float64)
        fold_N = folds(np.arange(num_rounds), int(rng.integers(2**31)))
        table_FCI = reward_tables(context_N, item_N, click_N, fold_N, shape)
        return Rounds(
            reward_N=click_N,
            weight_N=(self.evaluated_CI / self.logging_CI)[context_N, item_N],
            model_N=table_FCI[fold_N, context_N, item_N],
            direct_N=(table_FCI * self.evaluated_CI).sum(2)[fold_N, context_N],
        )


def made_world(
    rng: np.random.Generator,
    distance: float,
    click_rate: float = 0.1,
    sharpness: float = 1.0,
    num_contexts: int = 10,
    num_items: int = 20,
) -> MadeWorld:
    """Draw a world.

    Args:
        distance: how far the evaluated policy's logits are from those of the log's: 0 is the same policy, 1 near,
            3 far.
        click_rate: of the average item.
        sharpness: factor of the logits of the log's policy: the larger, the less it shows of what the other one does.
    """
    shape = num_contexts, num_items
    taste_CI, known_CI, other_CI = rng.normal(size=(3, *shape))
    odds_CI = click_rate / (1 - click_rate) * np.exp(0.7 * taste_CI)
    logit_CI = 0.5 * taste_CI + 0.5 * known_CI
    return MadeWorld(
        share_C=rng.dirichlet(np.full(num_contexts, 5.0)),
        click_CI=odds_CI / (1 + odds_CI),
        logging_CI=_softmax(sharpness * logit_CI),
        evaluated_CI=_softmax(logit_CI + distance * (0.5 * taste_CI + 0.5 * other_CI)),
    )


def _softmax(logit_CI: np.ndarray) -> np.ndarray:
    power_CI = np.exp(logit_CI - logit_CI.max(1, keepdims=True))
    return power_CI / power_CI.sum(1, keepdims=True)
