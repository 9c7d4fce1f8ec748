"""What a search found: on the screen, as a CSV of all trials, and as a configuration."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial
from rich.console import Console
from rich.table import Table

from features.search_space import Dimension
from pipelines.replaced_file import replaced
from pipelines.tune import EPOCHS, ERROR, SECONDS, ranked, values_of

_NUM_SHOWN = 5
"""As many as fit beside each other on 80 characters."""


def trial_line(trial: FrozenTrial, space: Sequence[Dimension], study: optuna.Study) -> str:
    """One line about a trial that ended, with the settings in which it differs from trial 0."""
    best = ranked(study)[:1]
    outcome = {
        "COMPLETE": f"{trial.value or 0:.4f}",
        "PRUNED": f"stopped early at {trial.value or 0:.4f}",
        "FAIL": f"failed: {trial.user_attrs.get(ERROR)}",
    }[trial.state.name]
    against = f" (best {best[0].value:.4f}, trial {best[0].number})" if best else ""
    start = values_of(study.get_trials(deepcopy=False)[0], space)
    settings = [f"{_last(key)} {shown(value)}" for key, value in values_of(trial, space).items() if value != start[key]]
    told = ", ".join(settings) or "as configured"
    return f"trial {trial.number:<4} {outcome}{against} in {trial.user_attrs[SECONDS]:.0f} s   {told}"


def print_best(study: optuna.Study, space: Sequence[Dimension], measure: str) -> None:
    """A table of the best trials, best first: a column a trial, a row a setting."""
    best = ranked(study)[:_NUM_SHOWN]
    values = [values_of(trial, space) for trial in best]
    table = Table("trial", *(str(trial.number) for trial in best))
    table.add_row(measure, *(f"{trial.value:.4f}" for trial in best))
    table.add_row(EPOCHS, *(str(trial.user_attrs[EPOCHS]) for trial in best))
    table.add_row(SECONDS, *(f"{trial.user_attrs[SECONDS]:.0f}" for trial in best), end_section=True)
    for one in space:
        table.add_row(_last(one.key), *(shown(row[one.key]) for row in values))
    Console().print(table)


def write_trials(study: optuna.Study, space: Sequence[Dimension], path: Path) -> None:
    """Every trial that ended, in its order: number, state, score, epochs, seconds, error, and the settings."""
    with replaced(path) as building, building.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["trial", "state", "score", EPOCHS, SECONDS, ERROR, *(one.key for one in space)])
        for trial in study.get_trials(deepcopy=False):
            if trial.state.is_finished():
                kept, values = trial.user_attrs, values_of(trial, space)
                row = [trial.number, trial.state.name.lower(), "" if trial.value is None else trial.value]
                row += [kept.get(name, "") for name in (EPOCHS, SECONDS, ERROR)]
                writer.writerow([*row, *(_cell(values.get(one.key, "")) for one in space)])


def shown(value: Any) -> str:
    """A setting in few characters."""
    return f"{value:.3g}" if isinstance(value, float) else str(_cell(value))


def _cell(value: Any) -> Any:
    """A list as a configuration writes it."""
    return list(value) if isinstance(value, tuple) else value


def _last(key: str) -> str:
    return key.rpartition(".")[2]
