"""A search over settings that can be stopped at any time and goes on where it stopped.

The trials stand in a SQLite file of Optuna's. Each new one is drawn from a sampler seeded with the number of trials
before it: a search that was killed ten times tries the same settings as one that ran through.

Source: Bergstra et al., "Algorithms for hyper-parameter optimization", NeurIPS 2011 (the tree-structured Parzen
estimator); Golovin et al., "Google Vizier", KDD 2017 (the median rule that stops a trial early).
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import optuna
from optuna.pruners import MedianPruner
from optuna.samplers import TPESampler
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from features.errors import CascadeError
from features.search_space import Choice, Dimension

ERROR, SECONDS, EPOCHS = "error", "seconds", "epochs"
"""What is kept of a trial beside its settings and its score."""
_WARM_UP_TRIALS, _WARM_UP_EPOCHS = 5, 3
"""Trials that must have ended before one is stopped early, and epochs that each may have in any case."""

OnEpoch = Callable[[int, float], None]
"""Takes the epoch, from 1, and the score it reached; raises `optuna.TrialPruned` to stop a trial that has no chance."""
Fit = Callable[[Mapping[str, Any], OnEpoch], float]
"""Takes settings by dotted key, trains, and returns the score."""
Direction = Literal["maximize", "minimize"]
"""Whether more or less of the score is better."""


class TuneError(CascadeError):
    """The search cannot run here."""


@dataclass(frozen=True)
class Budget:
    """When the search ends."""

    num_trials: int
    """Trials in all, those of earlier calls counted."""
    timeout_minutes: float | None = None
    """No trial begins after so many minutes of this call; the one that runs then is finished."""


@contextmanager
def opened_study(file: Path, identity: Mapping[str, Any], direction: Direction = "maximize") -> Iterator[optuna.Study]:
    """The study of exactly these data, settings and space; another one's trials in the same file stay what they are.

    A trial that was running when the last call ended is marked as failed, and its settings are tried first.

    Args:
        file: SQLite file, made if it is not there.
        identity: what makes the scores of two trials comparable; JSON values.
    Raises: TuneError if another process tunes into the file.
    """
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.with_suffix(".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise TuneError(f"{file}: another process is tuning into it; wait for it, or end it") from error
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        name = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:12]
        study = optuna.create_study(
            storage=f"sqlite:///{file.resolve()}",
            study_name=name,
            direction=direction,
            load_if_exists=True,
            pruner=MedianPruner(_WARM_UP_TRIALS, n_warmup_steps=_WARM_UP_EPOCHS + 1),
        )
        for key, value in identity.items():
            study.set_user_attr(key, value)
        for trial in study.get_trials(states=(TrialState.RUNNING,)):
            study.tell(trial.number, state=TrialState.FAIL)
            if trial.params:
                study.enqueue_trial(trial.params)
        yield study


def search(
    study: optuna.Study,
    space: Sequence[Dimension],
    first: Mapping[str, Any],
    fit: Fit,
    budget: Budget,
    seed: int,
    after_trial: Callable[[FrozenTrial], None],
) -> None:
    """Run trials until the budget is spent.

    Args:
        first: the settings of trial 0, by key of the space.
        after_trial: gets every trial that this call finished.
    """
    deadline = math.inf if budget.timeout_minutes is None else time.monotonic() + 60 * budget.timeout_minutes
    if not study.get_trials(deepcopy=False):
        study.enqueue_trial({dimension.key: _stored(dimension, first[dimension.key]) for dimension in space})
    while (done := len(finished(study))) < budget.num_trials and time.monotonic() < deadline:
        # Without a constant liar, a trial depends on the finished ones alone and not on what a killed call left.
        study.sampler = TPESampler(seed=(seed + done) % 2**32, multivariate=True, constant_liar=False)
        trial = study.ask()
        values = {dimension.key: _suggested(trial, dimension) for dimension in space}
        after_trial(_run(study, trial, values, fit))


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that have used up their share of the budget: completed, stopped early, or ended by an error."""
    ended = study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL))
    return [trial for trial in ended if trial.state != TrialState.FAIL or ERROR in trial.user_attrs]


def ranked(study: optuna.Study) -> list[FrozenTrial]:
    """Completed trials, best first, equal ones in their order."""
    completed = study.get_trials(states=(TrialState.COMPLETE,))
    sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
    return sorted(completed, key=lambda trial: (sign * _score(trial), trial.number))


def values_of(trial: FrozenTrial, space: Sequence[Dimension]) -> dict[str, Any]:
    """A trial's settings by key of the space."""
    return {one.key: _restored(one, trial.params[one.key]) for one in space if one.key in trial.params}


def space_document(space: Sequence[Dimension]) -> list[dict[str, Any]]:
    """The space as JSON values."""
    return [asdict(dimension) for dimension in space]


def _run(study: optuna.Study, trial: optuna.Trial, values: Mapping[str, Any], fit: Fit) -> FrozenTrial:
    epochs = 0

    def on_epoch(epoch: int, score: float) -> None:
        nonlocal epochs
        epochs = epoch
        trial.report(score, epoch)
        if trial.should_prune():
            raise optuna.TrialPruned

    begun = time.monotonic()
    state, score = TrialState.FAIL, None
    try:
        score = fit(values, on_epoch)
        if math.isnan(score):
            raise TuneError("the score is nan: there is nothing to measure on")
        state = TrialState.COMPLETE
    except optuna.TrialPruned:
        state, score = TrialState.PRUNED, None
    except CascadeError as error:  # these settings do not work: one trial lost, not the search
        score = None
        trial.set_user_attr(ERROR, str(error))
    trial.set_user_attr(SECONDS, round(time.monotonic() - begun, 1))
    trial.set_user_attr(EPOCHS, epochs)
    return study.tell(trial, score, state)


def _suggested(trial: optuna.Trial, dimension: Dimension) -> Any:
    if isinstance(dimension, Choice):
        stored = [_stored(dimension, value) for value in dimension.values]
        return _restored(dimension, trial.suggest_categorical(dimension.key, stored))
    if dimension.is_integer:
        return trial.suggest_int(dimension.key, int(dimension.low), int(dimension.high), log=dimension.log)
    return trial.suggest_float(dimension.key, dimension.low, dimension.high, log=dimension.log)


def _stored(dimension: Dimension, value: Any) -> Any:
    """Optuna keeps categories that are texts and numbers; a list becomes its JSON."""
    return json.dumps(value) if isinstance(dimension, Choice) else value


def _restored(dimension: Dimension, stored: Any) -> Any:
    if not isinstance(dimension, Choice):
        return stored
    value = json.loads(stored)
    return tuple(value) if isinstance(value, list) else value


def _score(trial: FrozenTrial) -> float:
    assert trial.value is not None
    return trial.value
