"""Two runs beside each other: what differs is found, what is equal is not, what cannot be compared is refused."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from pipelines.__main__ import main
from pipelines.evaluation_values import IMPRESSIONS_FILE, USERS_FILE
from pipelines.report import ReportError
from pipelines.report.compared_quality import BETTER, PAIRED, SAME, UNPAIRED, compared_quality, unpaired_difference
from pipelines.report.comparison import write_comparison
from pipelines.report.run_record import RunRecord
from retrieval.metrics import bootstrap_difference


def change(path: Path, edit: Callable[[Any], None]) -> None:
    document = json.loads(path.read_text())
    edit(document)
    path.write_text(json.dumps(document))


def quality(a: Path, b: Path) -> dict[str, Any]:
    return {one.name: one for one in compared_quality(RunRecord.read(a), RunRecord.read(b))}


@pytest.fixture
def better(evaluated_run: Callable[[float], Path], tmp_path: Path) -> Path:
    """As `evaluated`, with luckier answers and another [ranking]."""
    run = Path(shutil.copytree(evaluated_run(0.6), tmp_path / "better"))
    change(run / "config.json", lambda one: one["ranking"].update(max_epochs=7))
    return run


@pytest.mark.parametrize("kind", ["evaluated", "clicks"])
def test_a_run_beside_itself_shows_no_difference(kind, request, read_page):
    run = request.getfixturevalue(kind)
    page = read_page(write_comparison(run, run))
    found = quality(run, run)
    assert found and {one.verdict for one in found.values()} == {SAME}
    assert {one.how for one in found.values() if one.difference["low"] is not None} == {PAIRED}
    assert "The same configuration." in page.text and "No metric shows that one is better." in page.text
    assert "Versions" not in page.text


def test_a_better_run_is_found_to_be_better_in_pairs_of_users(evaluated, better, read_page):
    found = quality(evaluated, better)["slate ndcg@10"]
    values = []
    for run in (evaluated, better):
        table = pq.read_table(run / USERS_FILE).sort_by("user_id")
        values.append(table["slate ndcg@10"].to_numpy())
    by_hand = bootstrap_difference(values[1], values[0], 100, seed=42)
    assert (found.difference["mean"], found.difference["low"]) == (by_hand.mean, by_hand.low)
    assert found.verdict == BETTER and found.how == PAIRED
    page = read_page(write_comparison(evaluated, better))
    (rows,) = [rows for _, rows in page.tables if rows[0][0] == "metric"]
    row = next(row for row in rows if row[0] == "slate ndcg@10")
    assert row[3].startswith(f"{by_hand.mean:+.4f} [{by_hand.low:+.4f},") and row[4:] == [PAIRED, BETTER]
    assert page.rows("Keys that differ") == {"ranking.max_epochs": {"A": "1", "B": "7"}}


def test_without_values_of_users_the_interval_is_wider_and_said_to_be_unpaired(evaluated, better, read_page):
    paired = quality(evaluated, better)["slate ndcg@10"].difference
    (better / USERS_FILE).unlink()
    found = quality(evaluated, better)["slate ndcg@10"]
    assert found.how == UNPAIRED
    assert found.difference["mean"] == pytest.approx(paired["mean"])
    assert found.difference["high"] - found.difference["low"] > 0.8 * (paired["high"] - paired["low"])
    assert "They are not paired" in read_page(write_comparison(evaluated, better)).text


def test_values_of_other_users_or_of_another_evaluation_are_not_paired(evaluated, better):
    table = pq.read_table(better / USERS_FILE)
    pq.write_table(table.slice(1), better / USERS_FILE)
    assert quality(evaluated, better)["slate ndcg@10"].how == UNPAIRED
    wrong = table["slate ndcg@10"].to_numpy() + 0.1
    place = table.column_names.index("slate ndcg@10")
    pq.write_table(table.set_column(place, "slate ndcg@10", pa.array(wrong)), better / USERS_FILE)
    found = quality(evaluated, better)
    assert found["slate ndcg@10"].how == UNPAIRED and found["slate mrr@10"].how == PAIRED


def test_an_unpaired_interval_is_that_of_two_independent_means():
    a, b = (
        {"mean": mean, "low": mean - 1.96 * error, "high": mean + 1.96 * error}
        for mean, error in ((1.0, 0.3), (2.0, 0.4))
    )
    found = unpaired_difference(a, b, (0.95, 0.95))
    assert (found["low"], found["high"]) == pytest.approx((1 - 1.96 * 0.5, 1 + 1.96 * 0.5), abs=1e-4)


def test_a_worse_ranker_of_impressions_is_found_in_pairs(clicks, tmp_path):
    other = Path(shutil.copytree(clicks, tmp_path / "other"))
    table = pq.read_table(other / IMPRESSIONS_FILE)
    label = table["label"].to_numpy()
    probability = np.where(label == 1, 0.9, 0.1)
    place = table.column_names.index("probability")
    pq.write_table(table.set_column(place, "probability", pa.array(probability)), other / IMPRESSIONS_FILE)
    assert quality(clicks, other)["AUC"].how == UNPAIRED, "the values are not those of the evaluation"
    loss = float(-np.log(0.9))
    change(other / "evaluation.json", lambda one: one["systems"]["cascade"]["log_loss"].update(value=loss))
    found = quality(clicks, other)
    assert found["AUC"].how == PAIRED and found["AUC"].verdict == BETTER and found["log loss"].verdict == BETTER
    own = json.loads((clicks / "evaluation.json").read_text())["systems"]["cascade"]["auc"]["value"]
    assert found["AUC"].difference["mean"] == pytest.approx(1 - own)


def test_runs_that_are_not_evaluated_are_compared_without_quality(small_run, tmp_path, read_page):
    page = read_page(write_comparison(small_run, small_run, tmp_path / "page.html"))
    assert "A is not evaluated" in page.text and "Time and memory" in page.text


def test_other_logs_another_split_and_another_protocol_are_refused(evaluated, better, clicks):
    with pytest.raises(ReportError, match="one holds interactions of users and items and the other impressions"):
        write_comparison(evaluated, clicks)
    change(better / "config.json", lambda one: one["data"]["synthetic"].update(seed=2))
    change(better / "etl" / "manifest.json", lambda one: one["inputs"].update(data="another"))
    change(better / "etl" / "manifest.json", lambda one: one["config"]["split"].update(test_share=0.3))
    change(better / "evaluation.json", lambda one: one["protocol"].update(drop_seen=False))
    with pytest.raises(ReportError) as refused:
        write_comparison(evaluated, better)
    for words in ("synthetic.seed 1 and 2", "etl.split differs: test_share 0.1 and 0.3", "drop_seen true and false"):
        assert words in str(refused.value)


def test_files_of_other_content_are_refused_whatever_they_are_called(evaluated, better):
    change(evaluated / "etl" / "manifest.json", lambda one: one["inputs"].update({"0 0 a.csv": "one"}))
    change(better / "etl" / "manifest.json", lambda one: one["inputs"].update({"0 0 b.csv": "one"}))
    write_comparison(evaluated, better)
    change(better / "etl" / "manifest.json", lambda one: one["inputs"].update({"0 0 b.csv": "two"}))
    with pytest.raises(ReportError, match="1 and 1 files, 0 of them the same"):
        write_comparison(evaluated, better)


def test_another_cut_off_is_said_and_only_shared_metrics_are_compared(evaluated, better, read_page):
    change(better / "evaluation.json", lambda one: one["protocol"]["config"].update(num_bootstrap=7))
    change(better / "evaluation.json", lambda one: one["systems"]["cascade"]["slate"].pop("mrr@10"))
    assert "config.num_bootstrap 100 and 7" in read_page(write_comparison(evaluated, better)).text
    assert "slate mrr@10" not in quality(evaluated, better)


def test_the_command_prints_what_differs_and_names_the_page(evaluated, better, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert main(["report", "--compare", str(evaluated), str(better), "--out", str(page)]) == 0
    said = capsys.readouterr().out
    assert "ranking.max_epochs" in said and "slate ndcg@10" in said and said.endswith(f"report: {page}\n")
    assert page.is_file()
    assert main(["report", str(evaluated), "--out", str(page)]) == 1
    assert "goes with --compare" in capsys.readouterr().err
