"""The evaluation of a click model: metrics and intervals of known answers, baselines, report and table."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags
from rich.console import Console

from features.artifact import Artifact, ArtifactError, open_artifact, writing
from features.schema import save_schema
from pipelines.click_baselines import fm, logistic, trees
from pipelines.click_bootstrap import METRICS, Measured, bootstrapped, intervals
from pipelines.click_table import print_click_report
from pipelines.evaluate import EvaluationConfig
from pipelines.evaluate_clicks import ClickEvaluationError, evaluate_clicks, measured
from ranking.clicks import train as click_train
from ranking.clicks.metrics import GroupedAuc, MetricInputError, auc, log_losses
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig, RankingConfig
from ranking.reliability import expected_calibration_error

NUM_IDS = 5
NUM_ROWS = {"train": 2_000, "valid": 500, "test": 700}
NUM_USERS = 60
RANKING = RankingConfig(
    network=NetworkConfig(embedding_dim=4, dropout=0, dlrm=DlrmConfig(bottom_units=(8,), top_units=(16,))),
    clicks=ClickConfig(batch_size=64, max_epochs=6, table_learning_rate=0.05, patience=1),
)
CONFIG = EvaluationConfig(num_bootstrap=40)


def write_etl(path: Path, grouped: bool = True) -> None:
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
            table = table.append_column("group", pa.array(7 * random.integers(0, NUM_USERS, num_rows)))
            pq.write_table(table, writer.path / "examples" / part / "part_000000.parquet")
        save_schema(Schema(columns), writer.path / "schema.json")
        writer.metrics |= {"kind": "impressions", "vocabulary": {"number": 1, "sha256": "0" * 64}}
        writer.metrics["group"] = {"of": "user_id", "column": "group"} if grouped else None


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
    expected = {
        "auc": auc(probability, label),
        "gauc": np.nan,
        "log_loss": loss,
        "normalised_entropy": loss / entropy,
        "calibration": probability.mean(dtype=np.float64) / rate,
        "calibration_error": expected_calibration_error(probability, label),
    }
    assert dict(zip(METRICS, found, strict=True)) == pytest.approx(expected, nan_ok=True)


def test_a_group_that_was_drawn_twice_counts_with_all_its_rows_twice():
    random = np.random.default_rng(0)
    label, probability, group = random.random(90) < 0.4, random.random(90), random.integers(0, 9, 90)
    count = np.array([0, 2, 1, 0, 3, 1, 1, 0, 1])
    rows = np.concatenate([np.flatnonzero(group == one) for one, times in enumerate(count) for _ in range(times)])
    copies = np.concatenate(
        [np.full((group == one).sum(), 10 * one + t) for one, n in enumerate(count) for t in range(n)]
    )
    found = dict(zip(METRICS, Measured(probability, label, group).metrics(count[group], count), strict=True))
    assert found["auc"] == pytest.approx(auc(probability[rows], label[rows]))
    assert found["gauc"] == pytest.approx(GroupedAuc(probability[rows], label[rows], copies).value())


def test_whole_groups_are_drawn_so_rows_that_resemble_each_other_do_not_count_as_many():
    """20 groups whose rows are all alike: as good as 20 rows, so intervals are sqrt(50) times those of 1000."""
    random = np.random.default_rng(0)
    group = np.repeat(np.arange(20), 50)
    label, probability = (random.random(20) < 0.4)[group], random.uniform(0.1, 0.6, 20)[group]
    systems = {"it": Measured(probability, label, group)}
    by_row, by_group = (
        bootstrapped(systems, 1_000, 400, seed=1, group_N=group_N)["it"][:, METRICS.index("log_loss")].std()
        for group_N in (None, group)
    )
    assert by_group / by_row == pytest.approx(np.sqrt(50), rel=0.15)


def test_the_interval_of_a_calibration_error_holds_the_true_one():
    """Of true probabilities less 0.05: the mean of resamples lies above the error itself, the interval does not."""
    random = np.random.default_rng(0)
    held = 0
    for _ in range(60):
        truth = random.uniform(0.1, 0.6, 1_500)
        system = Measured(truth - 0.05, random.random(1_500) < truth)
        sample = bootstrapped({"it": system}, 1_500, 100, seed=1)["it"]
        found = intervals(system.metrics(), sample, 0.95, lowest=0.0)["calibration_error"]
        held += found["low"] <= 0.05 <= found["high"]
    assert held >= 51, "95% of 60 are 57; 51 or fewer would come once in a hundred"


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
    assert np.array_equal(sample["one"], sample["two"], equal_nan=True)
    assert not np.array_equal(sample["one"][0], sample["one"][1])
    assert np.array_equal(bootstrapped(systems, 200, 20, seed=1)["one"], sample["one"], equal_nan=True)
    assert intervals(np.zeros(6), sample["one"] - sample["two"], 0.95)["auc"] == {"value": 0, "low": 0, "high": 0}


def test_resamples_without_a_click_are_left_out_of_the_interval():
    label = np.array([1, 0, 0, 0])
    system = Measured(np.array([0.9, 0.1, 0.2, 0.3]), label)
    sample = bootstrapped({"it": system}, 4, 50, seed=0)["it"]
    assert np.isnan(sample[:, 0]).any()
    assert intervals(system.metrics(), sample, 0.95)["auc"] == {"value": 1, "low": 1, "high": 1}


def exported(ranking: Artifact, table: pa.Table) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities and logits."""
    session = onnxruntime.InferenceSession(str(ranking.file("ranker.onnx")))
    columns = {node.name: table[node.name].to_numpy() for node in session.get_inputs()}
    return tuple(session.run(["probability", "logit"], columns))


def test_the_model_is_measured_through_its_export(run_folder: Path, report: dict):
    etl, ranking = (open_artifact(run_folder / stage, stage) for stage in ("etl", "ranking"))
    table = pq.read_table(etl.file("examples/test/part_000000.parquet"))
    said, _ = exported(ranking, table)
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


@pytest.mark.parametrize(
    ("name", "num_trials"), [("logistic_regression", 6), ("factorization_machine", 7), ("lightgbm_trees", 16)]
)
def test_a_baselines_setting_is_the_best_of_its_trials_on_the_valid_part(report: dict, name: str, num_trials: int):
    baseline = report["baselines"][name]
    losses = [trial.get("valid_log_loss", np.inf) for trial in baseline["trials"]]
    assert len(losses) == num_trials and baseline["settings"] == baseline["trials"][int(np.argmin(losses))]
    assert len({trial["learning_rate"] for trial in baseline["trials"]}) == 3


def test_trees_and_products_find_what_a_sum_of_weights_cannot(report: dict):
    for name in ("factorization_machine", "lightgbm_trees"):
        assert report["systems"][name]["auc"]["value"] > 0.8, name
        assert report["systems"][name]["calibration_error"]["value"] < 0.1, name


def test_the_gauc_is_within_users_and_the_report_says_who_they_are(run_folder: Path, report: dict):
    etl, ranking = (open_artifact(run_folder / stage, stage) for stage in ("etl", "ranking"))
    table = pq.read_table(etl.file("examples/test/part_000000.parquet"))
    said, label, group = exported(ranking, table)[0], table["label"].to_numpy(), table["group"].to_numpy()
    sums = np.zeros(2)
    for one in np.unique(group):
        mine = group == one
        if 0 < label[mine].sum() < mine.sum():
            sums += np.array([auc(said[mine], label[mine]), 1]) * mine.sum()
    assert report["systems"]["cascade"]["gauc"]["value"] == pytest.approx(sums[0] / sums[1])
    assert report["protocol"]["group"] == {"of": "user_id", "num_groups": NUM_USERS}


def test_the_model_is_shown_before_and_after_its_calibration(run_folder: Path, report: dict):
    etl, ranking = (open_artifact(run_folder / stage, stage) for stage in ("etl", "ranking"))
    table = pq.read_table(etl.file("examples/test/part_000000.parquet"))
    probability, logit = exported(ranking, table)
    slope, intercept = (report["calibration"]["parameters"][name] for name in ("slope", "intercept"))
    assert report["calibration"]["method"] == "platt"
    assert probability == pytest.approx(1 / (1 + np.exp(-slope * logit - intercept)), abs=1e-6)
    before, label = 1 / (1 + np.exp(-logit)), table["label"].to_numpy()
    for name, said in (("cascade", probability), ("cascade_uncalibrated", before)):
        error = report["systems"][name]["calibration_error"]["value"]
        assert error == pytest.approx(expected_calibration_error(said, label), abs=1e-6), name
    assert report["cascade_minus"]["cascade_uncalibrated"]["auc"]["value"] == pytest.approx(0, abs=1e-9)


def test_the_curve_of_every_system_is_in_the_report_and_in_the_plot(run_folder: Path, report: dict):
    plot = (run_folder / "reliability.svg").read_text()
    for name, curve in report["reliability"].items():
        assert sum(curve["num_impressions"]) == NUM_ROWS["test"], name
        assert name.replace("_", " ") in plot
    assert plot.startswith("<?xml") and "http" not in plot.replace("http://www.w3.org", "")
    assert len(plot) < 150_000


def without_clock(report: dict) -> dict:
    kept = json.loads(json.dumps(report))
    for baseline in kept["baselines"].values():
        del baseline["seconds"]
    return kept


@pytest.mark.slow
def test_the_report_is_written_and_the_same_seed_gives_it_again(run_folder: Path, report: dict, tmp_path: Path):
    assert json.loads((run_folder / "evaluation.json").read_text()) == report
    again = evaluate_clicks(run_folder / "etl", run_folder / "ranking", CONFIG, RANKING, out=tmp_path, seed=3)
    assert without_clock(again) == without_clock(report)
    assert report["protocol"]["num_impressions"] == NUM_ROWS


def test_the_table_has_a_row_for_every_system_and_difference(report: dict):
    text = StringIO()
    print_click_report(report, Path("here/reliability.svg"), Console(file=text, width=140))
    shown = text.getvalue()
    for words in (
        "AUC",
        "GAUC",
        "norm. entropy",
        "calib. error",
        "mean click rate",
        "Cascade, uncalibrated",
        "- logistic regression",
        "- lightgbm trees",
        "60 values of user_id",
        "700 test impressions",
        "calibrated by platt",
        "the best of 16 on valid",
    ):
        assert words in shown
    assert shown.strip().endswith("plot: here/reliability.svg") and "…" not in shown
    value, low, high = (f"{report['systems']['cascade']['auc'][name]:.4f}"[1:] for name in ("value", "low", "high"))
    assert value in shown and f"[{low}, {high}]" in shown


def test_without_groups_rows_are_drawn_and_there_is_no_gauc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """And without the package, the trees are left out."""
    monkeypatch.setattr(trees, "find_spec", lambda name: None)
    for baseline in (logistic, fm):  # fewer settings: this is not about them
        monkeypatch.setattr(baseline, "L2", (10.0,))
        monkeypatch.setattr(baseline, "OTHER_RATES", ())
    monkeypatch.setattr(fm, "OTHER_DIMS", ())
    write_etl(tmp_path / "etl", grouped=False)
    etl = open_artifact(tmp_path / "etl", "etl")
    config = replace(RANKING, calibration="none", clicks=replace(RANKING.clicks, max_epochs=1))
    with writing(tmp_path / "ranking", "ranking", {}, 0, {"etl": etl.content_hash}) as writer:
        click_train.run(config, etl, 0, writer)
    report = evaluate_clicks(tmp_path / "etl", tmp_path / "ranking", CONFIG, config, out=tmp_path)
    assert report["protocol"]["group"] is None and report["systems"]["cascade"]["gauc"]["value"] is None
    assert "cascade_uncalibrated" not in report["systems"] and "lightgbm_trees" not in report["systems"]
    assert report["baselines"]["lightgbm_trees"]["skipped"].startswith("the package `lightgbm` is not installed")
    text = StringIO()
    print_click_report(report, Path("reliability.svg"), Console(file=text, width=140))
    assert "GAUC" not in text.getvalue() and "interval over impressions" in text.getvalue()
    assert "lightgbm trees left out: the package" in text.getvalue() and "not calibrated" in text.getvalue()


def test_a_system_that_says_no_probability_is_named():
    with pytest.raises(ClickEvaluationError, match=r"what it says of the test part .* row 1 .* is nan") as raised:
        measured("it", np.array([0.1, np.nan]), np.array([0, 1]), None)
    assert isinstance(raised.value.__cause__, MetricInputError)


def test_a_model_of_another_etl_artifact_is_refused(run_folder: Path, tmp_path: Path):
    with writing(tmp_path / "etl", "etl", {"other": 1}, 0, {}):
        pass
    with pytest.raises(ArtifactError, match="was made from another etl artifact"):
        evaluate_clicks(tmp_path / "etl", run_folder / "ranking", CONFIG, RANKING, out=tmp_path)
