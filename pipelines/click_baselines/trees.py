"""Gradient boosted trees of the `lightgbm` package, tuned: what a click model must replace."""

from __future__ import annotations

import time
from collections.abc import Callable
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np
import optuna
from merlin.schema import Schema
from tqdm import tqdm

from features.errors import CascadeError
from pipelines.click_baselines.baseline import ClickBaseline, skipped
from pipelines.click_baselines.tree_features import Categories, TreeFeatures, TreePart
from ranking.clicks.batches import ClickBatches
from ranking.clicks.metrics import auc, log_losses
from ranking.config import RankingConfig

if TYPE_CHECKING:
    import lightgbm

# N rows

SEARCH_RATE, SMALLER_RATES = 0.1, (0.05, 0.02)
"""Step sizes: the search has the one, the best it finds is fitted again with the others."""
MAX_ROUNDS = 3_000
PATIENCE = 50
"""Rounds without a better log loss on the valid part at SEARCH_RATE; in proportion more at smaller ones."""
MIN_TRIALS = 3 + len(SMALLER_RATES)
"""Each way to read categories once, and the smaller steps."""
_REPORT_EVERY, _UNJUDGED_TREES, _UNJUDGED_TRIALS = 25, 100, 5


class TreeTrialsError(CascadeError, ValueError):
    """Too few trials for a tuned baseline."""


def lightgbm_trees(
    schema: Schema,
    config: RankingConfig,
    fitted: ClickBatches,
    held_out: ClickBatches,
    test: ClickBatches,
    seed: int,
    num_trials: int = 16,
) -> ClickBaseline:
    """Trees with the settings whose log loss on the valid part is lowest, where also the number of trees is chosen.

    The first three trials are LightGBM's own settings with each way to read categories (`tree_features.Categories`);
    the next are drawn by a seeded TPE over tree size, penalties, sampling and the handling of categories, and given up
    where they are behind the median; the last ones repeat the best with smaller steps.

    Args:
        config: num_threads applies.
        num_trials: settings to try, MIN_TRIALS at least.
    Returns: a skipped baseline if `lightgbm` is not installed.
    Raises: TreeTrialsError.
    Source: Ke et al., "LightGBM: a highly efficient gradient boosting decision tree", NeurIPS 2017; Akiba et al.,
        "Optuna", KDD 2019.
    """
    if num_trials < MIN_TRIALS:
        raise TreeTrialsError(f"lightgbm_trees needs num_trials of {MIN_TRIALS} or more, got {num_trials}")
    if not find_spec("lightgbm"):
        return skipped("the package `lightgbm` is not installed; install the extra `evaluate`")
    begun = time.monotonic()
    search = _Search(schema, config, fitted, held_out, seed)
    with tqdm(total=num_trials, desc="trees", unit=" trials", disable=None, leave=False) as progress:

        def shown(*_: Any) -> None:
            progress.update()
            progress.set_postfix(valid_log_loss=f"{search.best[0]['valid_log_loss']:.4f}")

        search.run(num_trials - len(SMALLER_RATES), shown)
        best = search.best[0]
        chosen = {name: best[name] for name in best if name in _SETTINGS}
        for rate in SMALLER_RATES:
            search.attempt(chosen | {"learning_rate": rate})
            shown()
    settings, booster = search.best
    matrix_NX = search.features.matrix(TreePart.of(test, schema), settings["categories"])
    probability_N = booster.predict(matrix_NX, num_threads=config.num_threads)
    return ClickBaseline(np.asarray(probability_N), settings, search.trials, round(time.monotonic() - begun, 3))


_DEFAULTS: dict[str, Any] = {
    "num_leaves": 31,
    "min_data_in_leaf": 20,
    "lambda_l2": 1e-3,  # none, in a space of orders of magnitude
    "feature_fraction": 1.0,
    "bagging_fraction": 1.0,
}
_CATEGORY_DEFAULTS: dict[str, Any] = {
    "cat_smooth": 10.0,
    "cat_l2": 10.0,
    "min_data_per_group": 100,
    "max_cat_threshold": 32,
}
_SETTINGS = {"categories", "learning_rate", *_DEFAULTS, *_CATEGORY_DEFAULTS}


class _Search:
    """The trials on one pair of parts."""

    def __init__(
        self, schema: Schema, config: RankingConfig, fitted: ClickBatches, held_out: ClickBatches, seed: int
    ) -> None:
        self._fitted, self._held_out = TreePart.of(fitted, schema), TreePart.of(held_out, schema)
        self.features = TreeFeatures(schema, self._fitted, seed)
        self.trials: list[dict[str, Any]] = []
        self._seed, self._num_threads = seed, config.num_threads
        self._datasets: dict[Categories, tuple[lightgbm.Dataset, lightgbm.Dataset]] = {}
        self._best: tuple[dict[str, Any], lightgbm.Booster] | None = None

    @property
    def best(self) -> tuple[dict[str, Any], lightgbm.Booster]:
        assert self._best is not None
        return self._best

    def run(self, num_trials: int, shown: Callable[..., None]) -> None:
        """LightGBM's own settings first, then drawn ones."""
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        sampler = optuna.samplers.TPESampler(seed=self._seed, n_startup_trials=_UNJUDGED_TRIALS)
        pruner = optuna.pruners.MedianPruner(_UNJUDGED_TRIALS, n_warmup_steps=_UNJUDGED_TREES)
        study = optuna.create_study(sampler=sampler, pruner=pruner)
        for categories in ("native", "rates", "both"):
            study.enqueue_trial({"categories": categories} | _DEFAULTS | _CATEGORY_DEFAULTS)
        study.optimize(self._drawn, num_trials, callbacks=[shown])

    def attempt(self, setting: dict[str, Any], trial: optuna.Trial | None = None) -> float:
        """Fit one setting, keep it if it is the best, and give its log loss on the valid part.

        Raises: optuna.TrialPruned if the trial is behind the others.
        """
        import lightgbm

        rate, categories = setting["learning_rate"], setting["categories"]
        patience = round(PATIENCE * SEARCH_RATE / rate)
        parameters = {
            "objective": "binary",
            "metric": "binary_logloss",
            "bagging_freq": 1,
            "num_threads": self._num_threads,
            "seed": self._seed,
            "deterministic": True,
            "force_row_wise": True,
            "feature_pre_filter": False,
            "verbosity": -1,
        }
        train, valid = self._dataset(categories)
        callbacks: list[Callable] = [lightgbm.early_stopping(patience, verbose=False)]
        if trial is not None:
            callbacks.append(_Reported(trial))
        own = {name: value for name, value in setting.items() if name != "categories"}
        try:
            booster = lightgbm.train(
                parameters | own, train, MAX_ROUNDS, valid_sets=[valid], valid_names=["valid"], callbacks=callbacks
            )
        except _GivenUpError as given_up:
            self.trials.append(setting | {"given_up_after": given_up.num_trees, "loss_then": given_up.loss})
            raise
        probability_N = np.asarray(
            booster.predict(self.features.matrix(self._held_out, categories), num_threads=self._num_threads)
        )
        reached = {
            "num_trees": booster.best_iteration,
            "valid_log_loss": float(log_losses(probability_N, self._held_out.label_N).mean()),
            "valid_auc": auc(probability_N, self._held_out.label_N),
        }
        self.trials.append(setting | reached)
        if self._best is None or reached["valid_log_loss"] < self._best[0]["valid_log_loss"]:
            self._best = (self.trials[-1], booster)
        return reached["valid_log_loss"]

    def _drawn(self, trial: optuna.Trial) -> float:
        largest_leaf = max(21, min(5_000, len(self._fitted.label_N) // 10))
        setting: dict[str, Any] = {
            "categories": trial.suggest_categorical("categories", ("native", "rates", "both")),
            "learning_rate": SEARCH_RATE,
            "num_leaves": trial.suggest_int("num_leaves", 7, 511, log=True),
            "min_data_in_leaf": trial.suggest_int("min_data_in_leaf", 5, largest_leaf, log=True),
            "lambda_l2": trial.suggest_float("lambda_l2", 1e-3, 100, log=True),
            "feature_fraction": trial.suggest_float("feature_fraction", 0.2, 1),
            "bagging_fraction": trial.suggest_float("bagging_fraction", 0.4, 1),
        }
        if setting["categories"] != "rates":
            setting |= {
                "cat_smooth": trial.suggest_float("cat_smooth", 1, 300, log=True),
                "cat_l2": trial.suggest_float("cat_l2", 1, 300, log=True),
                "min_data_per_group": trial.suggest_int("min_data_per_group", 10, 1_000, log=True),
                "max_cat_threshold": trial.suggest_int("max_cat_threshold", 8, 512, log=True),
            }
        return self.attempt(setting, trial)

    def _dataset(self, categories: Categories) -> tuple[lightgbm.Dataset, lightgbm.Dataset]:
        """Train and valid, binned once for all trials."""
        import lightgbm

        if categories not in self._datasets:
            binned = {
                "categorical_feature": self.features.categorical(categories),
                "params": {"feature_pre_filter": False, "verbosity": -1, "num_threads": self._num_threads},
            }
            train = lightgbm.Dataset(self.features.matrix(self._fitted, categories), self._fitted.label_N, **binned)
            valid_NX = self.features.matrix(self._held_out, categories)
            valid = lightgbm.Dataset(valid_NX, self._held_out.label_N, reference=train, **binned)
            self._datasets[categories] = (train.construct(), valid.construct())
        return self._datasets[categories]


class _GivenUpError(optuna.TrialPruned):
    """A trial that is behind the others."""

    def __init__(self, num_trees: int, loss: float) -> None:
        super().__init__(f"log loss {loss} after {num_trees} trees")
        self.num_trees, self.loss = num_trees, loss


class _Reported:
    """Tells optuna how a trial goes, and ends it where optuna would rather not go on."""

    order = 20

    def __init__(self, trial: optuna.Trial) -> None:
        self._trial = trial

    def __call__(self, environment: Any) -> None:
        num_trees, loss = environment.iteration + 1, environment.evaluation_result_list[0][2]
        if num_trees % _REPORT_EVERY:
            return
        self._trial.report(loss, num_trees)
        if self._trial.should_prune():
            raise _GivenUpError(num_trees, loss)
