"""A search over settings with a known best, broken off and taken up again."""

from __future__ import annotations

import math
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from features.errors import CascadeError
from features.search_space import Choice, Range
from pipelines.tune import Budget, TuneError, finished, opened_study, ranked, search, values_of

SPACE = (Choice("shape", ((8,), (16, 8))), Range("width", 1, 64, log=True), Range("rate", 1e-4, 1.0, log=True))
FIRST = {"shape": (8,), "width": 32, "rate": 0.5}
IDENTITY = {"data": "a", "space": "b"}


def bowl(values, on_epoch) -> float:
    """Highest at rate 0.01 and the deep shape."""
    score = 1 - abs(math.log10(values["rate"]) + 2) / 4 - 0.1 * (values["shape"] == (8,))
    on_epoch(1, score)
    return score


class Killed(BaseException):
    """As a SIGKILL would: nobody catches it."""


def tried(file: Path, num_trials: int, fit=bowl, identity=IDENTITY, **budget) -> optuna.Study:
    with opened_study(file, identity) as study:
        search(study, SPACE, FIRST, fit, Budget(num_trials, **budget), 3, lambda trial: None)
    return study


def settings(study: optuna.Study) -> list[dict]:
    return [values_of(trial, SPACE) for trial in finished(study)]


def test_the_first_trial_is_the_configuration_and_later_ones_are_better(tmp_path):
    study = tried(tmp_path / "tune" / "a.db", 25)
    assert len(finished(study)) == 25 and settings(study)[0] == FIRST
    best = ranked(study)[0]
    assert best.number != 0 and values_of(best, SPACE)["shape"] == (16, 8)
    assert 0.002 < values_of(best, SPACE)["rate"] < 0.05
    scores = [trial.value or 0 for trial in ranked(study)]
    assert scores == sorted(scores, reverse=True) and len(scores) == 25


def test_every_value_lies_in_the_space_with_its_type(tmp_path):
    for values in settings(tried(tmp_path / "a.db", 15)):
        assert all(values[dimension.key] in dimension for dimension in SPACE)
        assert isinstance(values["width"], int) and isinstance(values["shape"], tuple)


def test_a_search_in_parts_tries_what_a_search_at_once_tries(tmp_path):
    whole = settings(tried(tmp_path / "whole.db", 16))
    for num_trials in (3, 3, 11, 16):
        study = tried(tmp_path / "parts.db", num_trials)
        assert len(finished(study)) == num_trials
    assert settings(study) == whole


@pytest.mark.parametrize("killed_at", [0, 4, 12])
def test_a_killed_trial_is_marked_as_failed_and_tried_again(killed_at, tmp_path):
    whole = settings(tried(tmp_path / "whole.db", 14))
    seen = []

    def dies(values, on_epoch):
        seen.append(dict(values))
        if len(seen) == killed_at + 1:
            raise Killed
        return bowl(values, on_epoch)

    with pytest.raises(Killed):
        tried(tmp_path / "killed.db", 14, dies)
    study = tried(tmp_path / "killed.db", 14)
    assert settings(study) == whole
    [failed] = study.get_trials(states=(TrialState.FAIL,))
    assert values_of(failed, SPACE) == seen[-1] == values_of(study.trials[failed.number + 1], SPACE)
    assert not study.get_trials(states=(TrialState.RUNNING, TrialState.WAITING))


def test_settings_that_fail_with_a_message_cost_one_trial_and_are_kept(tmp_path):
    def fails_once(values, on_epoch):
        if values == FIRST:
            raise CascadeError("the loss is nan")
        return math.nan if values["width"] > 40 else bowl(values, on_epoch)

    study = tried(tmp_path / "a.db", 12, fails_once)
    states = [trial.state for trial in study.trials]
    assert len(states) == 12 and states[0] == TrialState.FAIL
    assert study.trials[0].user_attrs["error"] == "the loss is nan"
    assert len(ranked(study)) == states.count(TrialState.COMPLETE) < 12
    assert all(
        (values_of(trial, SPACE)["width"] > 40) <= (trial.state != TrialState.COMPLETE) for trial in study.trials
    )


def test_a_defect_ends_the_search(tmp_path):
    with pytest.raises(ZeroDivisionError):
        tried(tmp_path / "a.db", 3, lambda values, on_epoch: 1 / 0)


def test_a_trial_below_the_median_of_its_epoch_is_stopped(tmp_path):
    calls = []

    def slow(values, on_epoch):
        good = len(calls) < 8
        calls.append(0)
        for epoch in range(1, 11):
            calls[-1] = epoch
            on_epoch(epoch, epoch if good else epoch / 2)
        return 10.0 if good else 5.0

    study = tried(tmp_path / "a.db", 9, slow)
    states = [trial.state for trial in finished(study)]
    assert states == [TrialState.COMPLETE] * 8 + [TrialState.PRUNED]
    assert calls == [10] * 8 + [4]  # three epochs are waited for; the 2 of the fourth is below the others' 4


def test_other_data_begin_another_study_and_leave_the_first_one(tmp_path):
    tried(tmp_path / "a.db", 3)
    assert len(finished(tried(tmp_path / "a.db", 2, identity={"data": "other"}))) == 2
    assert len(finished(tried(tmp_path / "a.db", 1))) == 3


def test_two_searches_into_one_file_are_refused(tmp_path):
    with opened_study(tmp_path / "a.db", IDENTITY), pytest.raises(TuneError, match="another process is tuning into it"):
        tried(tmp_path / "a.db", 3)
    assert len(finished(tried(tmp_path / "a.db", 1))) == 1


def test_no_trial_begins_after_the_time(tmp_path):
    assert finished(tried(tmp_path / "a.db", 5, timeout_minutes=0.0)) == []
