"""`cascade tune retrieval` on a small run: real trainings, real files."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.trial import TrialState

from features.artifact import open_artifact
from features.search_space import space_around, value_of
from pipelines import tune_retrieval as tuning
from pipelines.__main__ import main
from pipelines.config import load_config, load_saved_config
from pipelines.tune import Budget, TuneError, values_of
from retrieval.search_space import SPACE


@pytest.fixture(scope="module")
def run_folder(small_run, tmp_path_factory) -> Path:
    """The features of the small run, tuned with two trials."""
    out = tmp_path_factory.mktemp("tuned") / "run"
    shutil.copytree(small_run / "etl", out / "etl")
    shutil.copy(small_run / "config.json", out)
    assert main(["tune", "retrieval", "--out", str(out), "--trials", "2"]) == 0
    return out


def trials(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "tune" / "retrieval_trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_the_first_trial_is_the_run_s_own_configuration_with_the_recall_its_stage_reports(run_folder, small_run):
    first = trials(run_folder)[0]
    config = load_saved_config(small_run / "config.json").retrieval
    for dimension in SPACE:
        value = value_of(config, dimension.key)
        assert first[dimension.key] == str(list(value) if isinstance(value, tuple) else value)
    metrics = json.loads((small_run / "retrieval" / "manifest.json").read_text())["metrics"]
    assert float(first["score"]) == metrics["valid_recall_at_100"]
    assert first["state"] == "complete" and int(first["epochs"]) == config.max_epochs


def test_the_best_configuration_is_the_run_s_with_the_best_trial_s_settings(run_folder):
    config = load_saved_config(run_folder / "config.json")
    best = load_config(run_folder / "tune" / "retrieval_best.toml")
    assert replace(best, retrieval=config.retrieval) == config
    rows = trials(run_folder)
    top = max(rows, key=lambda row: float(row["score"]))
    for dimension in SPACE:
        value = value_of(best.retrieval, dimension.key)
        assert top[dimension.key] == str(list(value) if isinstance(value, tuple) else value)
    assert (run_folder / "config.json").read_text() and best.retrieval.max_epochs == config.retrieval.max_epochs


def test_the_same_command_goes_on_and_one_that_is_done_only_reports(run_folder, capsys, monkeypatch):
    before = trials(run_folder)
    trained = []
    real = tuning.train
    monkeypatch.setattr(tuning, "train", lambda *args, **more: trained.append(args[0]) or real(*args, **more))
    command = ["tune", "retrieval", "--out", str(run_folder), "--trials"]
    assert main([*command, "2"]) == 0
    said = capsys.readouterr().out
    assert "goes on behind 2 trials" in said and "[retrieval]" in said and trained == []
    assert f"next: cascade run --config {run_folder}/tune/retrieval_best.toml --out {run_folder}" in said
    assert main([*command, "3"]) == 0
    assert len(trained) == 1 and trials(run_folder)[:2] == before and len(trials(run_folder)) == 3


def test_ctrl_c_keeps_the_finished_trials(small_run, tmp_path, monkeypatch, capsys):
    shutil.copytree(small_run / "etl", tmp_path / "etl")
    shutil.copy(small_run / "config.json", tmp_path)
    scores = iter([0.25])

    def interrupted(config, etl):
        def fit(values, on_epoch):
            try:
                return next(scores)
            except StopIteration:
                raise KeyboardInterrupt from None

        return fit

    monkeypatch.setattr(tuning, "validation_recall", interrupted)
    assert main(["tune", "retrieval", "--out", str(tmp_path), "--trials", "5"]) == 130
    assert "the same command goes on where it stopped" in capsys.readouterr().err
    assert [row["score"] for row in trials(tmp_path)] == ["0.25"]
    assert "validation recall@100 0.2500" in (tmp_path / "tune" / "retrieval_best.toml").read_text()


def test_a_hopeless_training_is_stopped_between_two_epochs(small_run):
    """The watched validation is called by the training itself: what it raises ends the trial."""
    config = load_saved_config(small_run / "config.json", ["--retrieval.max-epochs", "6", "--retrieval.patience", "6"])
    fit = tuning.validation_recall(config, open_artifact(small_run / "etl", "etl"))
    seen = []

    def stops_at_two(epoch, recall):
        seen.append((epoch, recall))
        if epoch == 2:
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        fit({}, stops_at_two)
    assert [epoch for epoch, _ in seen] == [1, 2] and all(0 <= recall <= 1 for _, recall in seen)


def test_features_of_another_configuration_are_refused(small_run, tmp_path):
    config = load_saved_config(small_run / "config.json", ["--etl.history-length", "11"])
    with pytest.raises(TuneError, match="made with another \\[etl\\] configuration"):
        tuning.tune_retrieval(config, open_artifact(small_run / "etl", "etl"), tmp_path, Budget(1), print)
    assert list(tmp_path.iterdir()) == []


def test_the_study_is_one_that_optuna_opens(run_folder):
    storage = f"sqlite:///{run_folder}/tune/retrieval.db"
    [name] = optuna.get_all_study_names(storage)
    study = optuna.load_study(study_name=name, storage=storage)
    space = space_around(load_saved_config(run_folder / "config.json").retrieval, SPACE)
    completed = study.get_trials(states=(TrialState.COMPLETE,))
    assert all(set(values_of(trial, space)) == {dimension.key for dimension in space} for trial in completed)
    manifest = json.loads((run_folder / "etl" / "manifest.json").read_text())
    assert study.user_attrs["etl"] == manifest["content_hash"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--out", "none"], "run `etl` first"),
        (["--out", "{run}", "--trials", "0"], "--trials must be at least 1, got 0"),
        (["--out", "{run}", "--retrieval.batch-size", "0"], "retrieval.batch_size"),
    ],
)
def test_what_cannot_be_tuned_says_why(words, said, run_folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["tune", "retrieval", *(word.format(run=run_folder) for word in words)]) == 1
    captured = capsys.readouterr()
    assert captured.err.startswith("cascade tune: ") and said in captured.err
