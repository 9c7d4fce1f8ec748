"""Baselines that our own loop trains: one setting after the other, the best on the valid part is kept."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from pipelines.click_baselines.baseline import ClickBaseline, Setting
from ranking.clicks.batches import ClickBatches
from ranking.clicks.model import ClickModel
from ranking.clicks.train import predicted, train
from ranking.config import ClickConfig

MAX_EPOCHS = 20


class TrainedBaseline:
    """Settings tried one by one on the same parts.

    Args:
        made: setting -> an untrained model.
        config: batch_size, which the batches have, and patience apply.
        name: before the progress bar.
    """

    def __init__(
        self,
        made: Callable[[Setting], ClickModel],
        config: ClickConfig,
        fitted: ClickBatches,
        held_out: ClickBatches,
        seed: int,
        name: str,
    ) -> None:
        self._made, self._config, self._name, self._seed = made, config, name, seed
        self._fitted, self._held_out = fitted, held_out
        self._trials: list[tuple[Setting, ClickModel]] = []
        self._begun = time.monotonic()

    @property
    def best(self) -> Setting:
        """The setting with the lowest log loss of the valid part so far."""
        return min(self._trials, key=_loss)[0]

    def attempt(self, settings: Sequence[Setting]) -> None:
        """Train with each setting: `learning_rate`, for all weights alike, and what `made` reads.

        Raises: DivergedError.
        """
        for setting in settings:
            torch.manual_seed(self._seed)
            model, rate = self._made(setting), float(setting["learning_rate"])
            config = ClickConfig(
                batch_size=self._config.batch_size,
                learning_rate=rate,
                table_learning_rate=rate,
                weight_decay=0.0,
                max_epochs=MAX_EPOCHS,
                patience=self._config.patience,
            )
            spoken = ", ".join(f"{name} {value:g}" for name, value in setting.items())
            curve = train(model, self._fitted, self._held_out, config, f"{self._name}, {spoken}")
            reached = {name: curve.best[name] for name in ("valid_log_loss", "valid_auc")}
            self._trials.append(({**setting, "best_epoch": curve.best_epoch, **reached}, model))

    def result(self, test: ClickBatches) -> ClickBaseline:
        """What the best says of the test part."""
        settings, model = min(self._trials, key=_loss)
        probability_N, _ = predicted(model, test)
        trials = [setting for setting, _ in self._trials]
        return ClickBaseline(probability_N, settings, trials, round(time.monotonic() - self._begun, 3))


def _loss(trial: tuple[Setting, ClickModel]) -> float:
    return float(trial[0]["valid_log_loss"])
