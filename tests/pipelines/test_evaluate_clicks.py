"""The evaluation of a click model: metrics and intervals of known answers, baselines, report and table."""

from __future__ import annotations

import json
from io import StringIO
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags
from rich.console import Console

from features.artifact import ArtifactError, open_artifact, writing
from features.schema import save_schema
from pipelines.click_bootstrap import METRICS, Measured, bootstrapped, intervals
from pipelines.click_table import print_click_report
from pipelines.evaluate import EvaluationConfig
from pipelines.evaluate_clicks import evaluate_clicks
from ranking.clicks import train as click_train
from ranking.clicks.metrics import auc, log_losses
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig, RankingConfig

NUM_IDS = 5
NUM_ROWS = {"train": 2_000, "valid": 500, "test": 700}
RANKING = RankingConfig(
    network=NetworkConfig(embedding_dim=4, dropout=0, dlrm=DlrmConfig(bottom_units=(8,), top_units=(16,))),
    clicks=ClickConfig(batch_size=64, max_epochs=6, table_learning_rate=0.05),
)
CONFIG = EvaluationConfig(num_bootstrap=40)


def write_etl(path: Path) -> None:
    """A click is likely where C1 and C2 differ, which no sum of weights can say."""
    random = np.random.default_rng(0)
    domains = {name: {"min": 0, "max": NUM_IDS - 1, "name": name} for name in ("C1", "C2")}
    columns = [
        ColumnSchema("label", dtype="int8", tags=[Tags.TARGET]),
        ColumnSchema("I1", dtype="float32", tags=[Tags.CONTINUOUS]),
    ]
    columns += [
        ColumnSchema(name, dtype="int32", tags=[Tags.CATEGORICAL], properties={"domain": domain})
        for name, domain in domains.items()
    ]
    with writing(path, "etl", {}, 0, {}) as writer:
        for part, num_rows in NUM_ROWS.items():
            ids = random.integers(3, NUM_IDS, (2, num_rows), np.int32)
            label = random.random(num_rows) < np.where(ids[0] != ids[1], 0.8, 0.1)
            number = random.normal(size=num_rows).astype(np.float32)
            (writer.path / "examples" / part).mkdir(parents=True)
            table = pa.table({"label": label.astype(np.int8), "I1": number, "C1": ids[0], "C2": ids[1]})
            pq.write_table(table, writer.path / "examples" / part / "part_000000.parquet")
        save_schema(Schema(columns), writer.path / "schema.json")
        writer.metrics |= {"kind": "impressions", "vocabulary": {"number": 1, "sha256": "0" * 64}}


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    write_etl(folder / "etl")
    etl = open_artifact(folder / "etl", "etl")
    with writing(folder / "ranking", "ranking", {}, 0, {"etl": etl.content_hash}) as writer:
        click_train.run(RANKING, etl, 0, writer)
    return folder


@pytest.fixture(scope="module")
def report(run_folder: Path) -> dict:
    return evaluate_clicks(run_folder / "etl", run_folder / "ranking", CONFIG, RANKING, out=run_folder, seed=3)


def test_metrics_of_a_resample_are_those_of_the_rows_that_were_drawn():
    random = np.random.default_rng(0)
    label, probability = random.random(50) < 0.4, random.random(50).astype(np.float32)
    drawn = random.integers(0, 50, 50)
    found = Measured(probability, label).metrics(np.bincount(drawn, minlength=50))
    label, probability = label[drawn], probability[drawn]
    loss, rate = log_losses(probability, label).mean(), label.mean()
    entropy = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    expected = [auc(probability, label), loss, loss / entropy, probability.mean(dtype=np.float64) / rate]
    assert found == pytest.approx(expected) and METRICS[3] == "calibration"


def test_the_interval_of_a_log_loss_is_about_that_of_a_mean():
    random = np.random.default_rng(0)
    label, probability = random.random(2_000) < 0.3, random.uniform(0.1, 0.6, 2_000)
    system = Measured(probability, label)
    sample = bootstrapped({"it": system}, 2_000, 400, seed=1)["it"]
    found = intervals(system.metrics(), sample, 0.95)["log_loss"]
    deviation = log_losses(probability, label).std() / np.sqrt(2_000)
    assert found["high"] - found["low"] == pytest.approx(2 * 1.96 * deviation, rel=0.15)
    assert found["low"] < found["value"] < found["high"]


def test_systems_are_measured_on_the_same_resamples():
    random = np.random.default_rng(0)
    label, probability = random.random(200) < 0.3, random.uniform(0.1, 0.6, 200)
    systems = {name: Measured(probability, label) for name in ("one", "two")}
    sample = bootstrapped(systems, 200, 20, seed=1)
    assert np.array_equal(sample["one"], sample["two"])
    assert not np.array_equal(sample["one"][0], sample["one"][1])
    assert np.array_equal(bootstrapped(systems, 200, 20, seed=1)["one"], sample["one"])
    assert intervals(np.zeros(4), sample["one"] - sample["two"], 0.95)["auc"] == {"value": 0, "low": 0, "high": 0}


def test_resamples_without_a_click_are_left_out_of_the_interval():
    label = np.array([1, 0, 0, 0])
    system = Measured(np.array([0.9, 0.1, 0.2, 0.3]), label)
    sample = bootstrapped({"it": system}, 4, 50, seed=0)["it"]
    assert np.isnan(sample[:, 0]).any()
    assert intervals(system.metrics(), sample, 0.95)["auc"] == {"value": 1, "low": 1, "high": 1}


def test_the_model_is_measured_through_its_export(run_folder: Path, report: dict):
    etl, ranking = (open_artifact(run_folder / stage, stage) for stage in ("etl", "ranking"))
    import onnxruntime

    table = pq.read_table(etl.file("examples/test/part_000000.parquet"))
    session = onnxruntime.InferenceSession(str(ranking.file("ranker.onnx")))
    (said,) = session.run(None, {node.name: table[node.name].to_numpy() for node in session.get_inputs()})
    found = report["systems"]["cascade"]
    assert found["auc"]["value"] == pytest.approx(auc(said, table["label"].to_numpy()), abs=1e-6)
    assert found["log_loss"]["value"] == pytest.approx(log_losses(said, table["label"].to_numpy()).mean(), abs=1e-6)


def test_the_dlrm_beats_a_logistic_regression_where_two_categories_must_differ(report: dict):
    ours, theirs = report["systems"]["cascade"], report["systems"]["logistic_regression"]
    assert ours["auc"]["value"] > 0.8 > 0.6 > theirs["auc"]["value"]
    difference = report["cascade_minus"]["logistic_regression"]
    assert difference["auc"]["low"] > 0 and difference["log_loss"]["high"] < 0
    assert difference["auc"]["value"] == pytest.approx(ours["auc"]["value"] - theirs["auc"]["value"])


def test_the_mean_click_rate_orders_nothing_and_is_that_of_the_train_part(run_folder: Path, report: dict):
    found = report["systems"]["mean_click_rate"]
    assert found["auc"] == {"value": 0.5, "low": 0.5, "high": 0.5}
    rate = pq.read_table(run_folder / "etl/examples/train/part_000000.parquet")["label"].to_numpy().mean()
    assert report["baselines"]["mean_click_rate"]["settings"]["click_rate"] == rate
    assert report["protocol"]["click_rate"]["train"] == rate
    assert found["calibration"]["value"] == pytest.approx(rate / report["protocol"]["click_rate"]["test"])


def test_the_logistic_regressions_setting_is_the_best_of_its_trials_on_the_valid_part(report: dict):
    baseline = report["baselines"]["logistic_regression"]
    losses = [trial["valid_log_loss"] for trial in baseline["trials"]]
    assert len(losses) == 6 and baseline["settings"] == baseline["trials"][int(np.argmin(losses))]
    assert len({trial["l2"] for trial in baseline["trials"]}) == 4
    assert len({trial["learning_rate"] for trial in baseline["trials"]}) == 3


def without_clock(report: dict) -> dict:
    kept = json.loads(json.dumps(report))
    del kept["baselines"]["logistic_regression"]["seconds"]
    return kept


def test_the_report_is_written_and_the_same_seed_gives_it_again(run_folder: Path, report: dict, tmp_path: Path):
    assert json.loads((run_folder / "evaluation.json").read_text()) == report
    again = evaluate_clicks(run_folder / "etl", run_folder / "ranking", CONFIG, RANKING, out=tmp_path, seed=3)
    assert without_clock(again) == without_clock(report)
    assert report["protocol"]["num_impressions"] == NUM_ROWS


def test_the_table_has_a_row_for_every_system_and_difference(report: dict):
    text = StringIO()
    print_click_report(report, Console(file=text, width=120))
    for words in (
        "AUC",
        "normalised entropy",
        "mean click rate",
        "Cascade - logistic regression",
        "700 test impressions",
    ):
        assert words in text.getvalue()
    value, low, high = (f"{report['systems']['cascade']['auc'][name]:.4f}" for name in ("value", "low", "high"))
    assert value in text.getvalue() and f"[{low}, {high}]" in text.getvalue()


def test_a_model_of_another_etl_artifact_is_refused(run_folder: Path, tmp_path: Path):
    with writing(tmp_path / "etl", "etl", {"other": 1}, 0, {}):
        pass
    with pytest.raises(ArtifactError, match="was made from another etl artifact"):
        evaluate_clicks(tmp_path / "etl", run_folder / "ranking", CONFIG, RANKING, out=tmp_path)
