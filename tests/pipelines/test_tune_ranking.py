"""`cascade tune ranking` on both kinds of logs: real trainings, real files."""

from __future__ import annotations

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import optuna
import pyarrow.parquet as pq
import pytest

from features.artifact import open_artifact
from features.search_space import value_of
from pipelines import tune_ranking as tuning
from pipelines.__main__ import main
from pipelines.config import load_config, load_saved_config
from pipelines.tune import Budget, TuneError
from ranking.search_space import CLICK_SPACE, LIST_SPACE
from ranking.training.loop import DivergedError

SMALL = [
    "--ranking.network.dlrm.top-units=[16]",
    "--ranking.network.dlrm.bottom-units=[8]",
    "--ranking.network.embedding-dim=4",
    "--ranking.clicks.max-epochs=2",
    "--ranking.calibration=none",
]


@pytest.fixture(scope="module")
def clicks_run(tmp_path_factory) -> Path:
    """A run of made Criteo rows, its ranker tuned with two trials."""
    folder = tmp_path_factory.mktemp("clicks")
    assert main(["synth", "criteo", "--out", str(folder / "logs"), "--rows", "3000", "--format", "parquet"]) == 0
    (folder / "cascade.toml").write_text(
        f'[data]\nadapter = "criteo"\n[data.criteo]\ntrain = "{folder}/logs"\nsplit = "random"\n'
    )
    command = ["--config", str(folder / "cascade.toml"), "--out", str(folder / "run"), *SMALL]
    assert main(["run", *command]) == 0
    assert main(["tune", "ranking", *command, "--trials", "2"]) == 0
    return folder / "run"


def trials(run_folder: Path) -> list[dict[str, str]]:
    with (run_folder / "tune" / "ranking_trials.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def assert_settings(row: dict[str, str], ranking, space) -> None:
    for dimension in space:
        value = value_of(ranking, dimension.key)
        assert row[dimension.key] == str(list(value) if isinstance(value, tuple) else value)


def test_the_first_trial_is_the_run_s_own_configuration_with_the_loss_its_stage_reports(clicks_run: Path):
    first = trials(clicks_run)[0]
    assert_settings(first, load_saved_config(clicks_run / "config.json").ranking, CLICK_SPACE)
    metrics = json.loads((clicks_run / "ranking" / "manifest.json").read_text())["metrics"]
    assert float(first["score"]) == metrics["valid_log_loss"]
    assert first["state"] == "complete" and int(first["epochs"]) == 2


def test_the_lowest_loss_is_the_best_and_stands_in_the_configuration(clicks_run: Path):
    config = load_saved_config(clicks_run / "config.json")
    best = load_config(clicks_run / "tune" / "ranking_best.toml")
    assert replace(best, ranking=config.ranking) == config
    assert_settings(min(trials(clicks_run), key=lambda row: float(row["score"])), best.ranking, CLICK_SPACE)
    heading = (clicks_run / "tune" / "ranking_best.toml").read_text().splitlines()[0]
    assert heading.startswith("# The best of `cascade tune ranking`: trial") and "validation log loss 0." in heading


def test_the_same_command_goes_on_and_one_that_is_done_only_reports(clicks_run: Path, capsys, monkeypatch):
    before, trained = trials(clicks_run), []
    real = tuning.train_clicks
    monkeypatch.setattr(tuning, "train_clicks", lambda *args, **more: trained.append(args[3]) or real(*args, **more))
    command = ["tune", "ranking", "--out", str(clicks_run), "--trials"]
    assert main([*command, "2"]) == 0
    said = capsys.readouterr().out
    assert "goes on behind 2 trials" in said and trained == []
    assert f"next: cascade run --config {clicks_run}/tune/ranking_best.toml --out {clicks_run}" in said
    assert main([*command, "3"]) == 0
    assert len(trained) == 1 and trials(clicks_run)[:2] == before and len(trials(clicks_run)) == 3


def test_a_hopeless_training_is_stopped_between_two_epochs(clicks_run: Path):
    config = load_saved_config(clicks_run / "config.json", ["--ranking.clicks.max-epochs", "6"])
    fit, seen = tuning.valid_log_loss(config, open_artifact(clicks_run / "etl", "etl")), []

    def stops_at_two(epoch, loss):
        seen.append((epoch, loss))
        if epoch == 2:
            raise optuna.TrialPruned

    with pytest.raises(optuna.TrialPruned):
        fit({}, stops_at_two)
    assert [epoch for epoch, _ in seen] == [1, 2] and all(0 < loss < 2 for _, loss in seen)


def test_settings_that_run_away_cost_one_trial(clicks_run: Path):
    config = load_saved_config(clicks_run / "config.json", ["--ranking.clicks.learning-rate", "1e30"])
    fit = tuning.valid_log_loss(config, open_artifact(clicks_run / "etl", "etl"))
    with pytest.raises(DivergedError, match=r"lower ranking\.clicks\.learning_rate"):
        fit({}, lambda epoch, loss: None)


@pytest.fixture(scope="module")
def lists_run(small_run: Path, tmp_path_factory) -> Path:
    """The small run, tuned with two trials."""
    out = tmp_path_factory.mktemp("lists") / "run"
    for stage in ("etl", "retrieval"):
        shutil.copytree(small_run / stage, out / stage)
    shutil.copy(small_run / "config.json", out)
    assert main(["tune", "ranking", "--out", str(out), "--trials", "2"]) == 0
    return out


def test_the_ranker_of_candidates_is_judged_by_users_it_was_not_trained_on(lists_run: Path, tmp_path: Path):
    first, _ = trials(lists_run)
    config = load_saved_config(lists_run / "config.json")
    assert_settings(first, config.ranking, LIST_SPACE)
    etl, retrieval = (open_artifact(lists_run / name, name) for name in ("etl", "retrieval"))
    fit, told = tuning.held_out_ndcg(config, etl, retrieval, tmp_path), []
    assert fit({}, lambda *of_epoch: told.append(of_epoch)) == float(first["score"]), "equal settings, equal score"
    assert told == [(config.ranking.max_epochs, float(first["score"]))] and 0 < float(first["score"]) < 1
    users = [
        set(pq.read_table(tmp_path / f"{name}.parquet")["user_row"].to_pylist()) for name in ("fitted", "held_out")
    ]
    assert users[0] and users[1] and not users[0] & users[1]
    assert len(users[1]) == round(config.ranking.held_out_share * len(users[0] | users[1]))
    assert not list((lists_run / "tune").glob("*.parquet"))


def test_proposals_of_another_configuration_are_refused(lists_run: Path, tmp_path: Path):
    config = load_saved_config(lists_run / "config.json", ["--retrieval.batch-size", "7"])
    etl, retrieval = (open_artifact(lists_run / name, name) for name in ("etl", "retrieval"))
    with pytest.raises(TuneError, match="the retrieval artifact was made with another \\[retrieval\\] configuration"):
        tuning.tune_lists(config, etl, retrieval, tmp_path, Budget(1), print)
    assert list(tmp_path.iterdir()) == []


def test_without_proposals_it_says_what_to_run_first(lists_run: Path, tmp_path: Path, capsys):
    shutil.copytree(lists_run / "etl", tmp_path / "etl")
    shutil.copy(lists_run / "config.json", tmp_path)
    assert main(["tune", "ranking", "--out", str(tmp_path)]) == 1
    assert "run `retrieval` first" in capsys.readouterr().err
