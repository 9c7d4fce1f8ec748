"""The ranking stage of impression logs: what it learns, and that it does so again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from merlin.schema import ColumnSchema, Schema, Tags
from safetensors.torch import load_file
from scipy.optimize import minimize

from features.artifact import Artifact, open_artifact, writing
from features.schema import FIRST_KNOWN, save_schema
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import LabelError, click_schema
from ranking.clicks.logistic import ClickLogistic
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import DivergedError, evaluated, predicted, run, train
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig, RankingConfig

NUM_IDS = {"C1": 5, "C2": 5, "C3": 23}
NUM_ROWS = {"train": 2_000, "valid": 500, "test": 500}
VOCABULARY = {"number": 1, "sha256": "0" * 64}
NETWORK = NetworkConfig(embedding_dim=4, dropout=0, dlrm=DlrmConfig(bottom_units=(8,), top_units=(16,)))
CLICKS = ClickConfig(batch_size=64, max_epochs=12, table_learning_rate=0.05)
CONFIG = RankingConfig(network=NETWORK, clicks=CLICKS)


def rows(num_rows: int, random: np.random.Generator, learnable: bool) -> pa.Table:
    """A click is likely where C1 and C2 differ, and a little likelier where I1 is large."""
    columns = {name: random.integers(FIRST_KNOWN, num, num_rows, np.int32) for name, num in NUM_IDS.items()}
    numbers = {name: random.normal(size=num_rows).astype(np.float32) for name in ("I1", "I2")}
    chance = np.where(columns["C1"] != columns["C2"], 0.85, 0.1) + 0.05 * np.tanh(numbers["I1"])
    label = random.random(num_rows) < (chance if learnable else 0.4)
    return pa.table({"label": label.astype(np.int8)} | numbers | columns)


def etl_artifact(path: Path, learnable: bool = True) -> Artifact:
    random = np.random.default_rng(0)
    domains = {name: {"min": 0, "max": num - 1, "name": name} for name, num in NUM_IDS.items()}
    columns = [ColumnSchema("label", dtype="int8", tags=[Tags.TARGET])]
    columns += [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS]) for name in ("I1", "I2")]
    columns += [
        ColumnSchema(name, dtype="int32", tags=[Tags.CATEGORICAL], properties={"domain": domain})
        for name, domain in domains.items()
    ]
    with writing(path, "etl", {}, 0, {}) as writer:
        for part, num_rows in NUM_ROWS.items():
            folder = writer.path / "examples" / part
            folder.mkdir(parents=True)
            table = rows(num_rows, random, learnable)
            for number in range(2):
                half = table.slice(number * num_rows // 2, num_rows // 2)
                pq.write_table(half, folder / f"part_{number:06d}.parquet")
        save_schema(Schema(columns), writer.path / "schema.json")
        writer.metrics |= {"kind": "impressions", "num_impressions": NUM_ROWS, "vocabulary": VOCABULARY}
    return open_artifact(path, "etl")


@pytest.fixture(scope="module")
def etl(tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return etl_artifact(tmp_path_factory.mktemp("etl") / "etl")


@pytest.fixture(scope="module")
def ranking(etl: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return ranked(etl, tmp_path_factory.mktemp("ranking") / "ranking")


def ranked(etl: Artifact, path: Path, config: RankingConfig = CONFIG, seed: int = 0) -> Artifact:
    with writing(path, "ranking", {}, seed, {"etl": etl.content_hash}) as writer:
        run(config, etl, seed, writer)
    return open_artifact(path, "ranking", inputs=[etl])


def part(etl: Artifact, name: str, batch_size: int = 64) -> ClickBatches:
    return ClickBatches(etl.files(f"examples/{name}/"), click_schema(etl), batch_size, 0)


def test_it_learns_that_two_categories_differ_where_a_logistic_regression_cannot(etl: Artifact, ranking: Artifact):
    fitted, valid = part(etl, "train"), part(etl, "valid")
    logistic = ClickLogistic(click_schema(etl), fitted.statistics, l2=1.0)
    train(logistic, fitted, valid, replace(CLICKS, learning_rate=0.03), "logistic regression")
    assert evaluated(logistic, valid)["valid_auc"] < 0.6
    assert ranking.metrics["valid_auc"] > 0.85


def test_the_artifact_says_what_was_reached_and_on_which_vocabulary(ranking: Artifact):
    curve = json.loads(ranking.file("learning_curve.json").read_text())
    losses = [epoch["valid_log_loss"] for epoch in curve]
    best = ranking.metrics["best_epoch"]
    assert best == int(np.argmin(losses)) > 0
    assert ranking.metrics["valid_log_loss"] == losses[best]
    assert ranking.metrics["valid_auc"] == curve[best]["valid_auc"]
    assert ranking.metrics["vocabulary"] == VOCABULARY and ranking.metrics["kind"] == "impressions"
    assert len(losses) - 1 in (best + CLICKS.patience, CLICKS.max_epochs)


def test_the_saved_and_the_exported_model_are_the_best_one(etl: Artifact, ranking: Artifact):
    valid = part(etl, "valid")
    model = ClickRanker(click_schema(etl), NETWORK, part(etl, "train").statistics, CLICKS.l2)
    model.load_state_dict(load_file(ranking.file("model.safetensors")))
    assert evaluated(model, valid)["valid_log_loss"] == pytest.approx(ranking.metrics["valid_log_loss"], rel=1e-6)
    session = onnxruntime.InferenceSession(str(ranking.file("ranker.onnx")))
    names = [node.name for node in session.get_inputs()]
    table = pa.concat_tables([pq.read_table(path) for path in etl.files("examples/valid/")])
    (exported,) = session.run(["probability"], {name: table[name].to_numpy() for name in names})
    np.testing.assert_allclose(exported, predicted(model, valid)[0], atol=1e-6)


def test_equal_inputs_and_seed_give_an_equal_artifact(etl: Artifact, tmp_path: Path):
    config = RankingConfig(network=replace(NETWORK, dropout=0.2), clicks=replace(CLICKS, max_epochs=2))
    one, two = ranked(etl, tmp_path / "one", config), ranked(etl, tmp_path / "two", config)
    other = ranked(etl, tmp_path / "other", config, seed=1)
    assert one.content_hash == two.content_hash
    parts = ("model.safetensors", "ranker.onnx", "learning_curve.json")
    assert all(one.file(name).read_bytes() == two.file(name).read_bytes() for name in parts)
    assert one.file("model.safetensors").read_bytes() != other.file("model.safetensors").read_bytes()


def test_where_there_is_nothing_to_learn_it_stays_at_the_click_rate(tmp_path: Path):
    etl = etl_artifact(tmp_path / "etl", learnable=False)
    config = RankingConfig(network=NETWORK, clicks=replace(CLICKS, learning_rate=0.1, table_learning_rate=0.5, l2=0.0))
    artifact = ranked(etl, tmp_path / "ranking", config)
    assert artifact.metrics["best_epoch"] == 0 and artifact.metrics["valid_auc"] == 0.5


def test_the_logistic_regression_finds_the_minimum_that_scipy_finds(etl: Artifact):
    """Sum of the log losses and l2 / 2 of the squared weights, the bias free."""
    l2, fitted = 5.0, part(etl, "train", 200)
    table = pa.concat_tables([pq.read_table(path) for path in etl.files("examples/train/")])
    label = table["label"].to_numpy()
    inputs = [np.eye(num)[table[name].to_numpy()] for name, num in NUM_IDS.items()]
    numbers = [table[name].to_numpy()[:, None] for name in ("I1", "I2")]
    inputs = np.concatenate([np.ones((len(table), 1)), *numbers, *inputs], axis=1)

    def objective(weights: np.ndarray) -> tuple[float, np.ndarray]:
        logit, penalised = inputs @ weights, np.append(0, weights[1:])
        value = (np.logaddexp(0, logit) - label * logit).sum() + l2 / 2 * penalised @ penalised
        return value, inputs.T @ (1 / (1 + np.exp(-logit)) - label) + l2 * penalised

    exact = minimize(objective, np.zeros(inputs.shape[1]), jac=True, method="L-BFGS-B").x
    model = ClickLogistic(click_schema(etl), fitted.statistics, l2)
    config = replace(CLICKS, learning_rate=0.005, table_learning_rate=0.05, weight_decay=0, max_epochs=30, patience=30)
    train(model, fitted, fitted, config, "logistic regression")
    np.testing.assert_allclose(predicted(model, fitted)[0], 1 / (1 + np.exp(-inputs @ exact)), atol=0.02)


def test_a_run_that_diverges_says_so(etl: Artifact, tmp_path: Path):
    config = RankingConfig(network=NETWORK, clicks=replace(CLICKS, learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"epoch 1 ended with .*lower ranking\.clicks\.learning_rate"):
        ranked(etl, tmp_path / "ranking", config)


def test_a_valid_part_without_clicks_is_refused(etl: Artifact, tmp_path: Path):
    with writing(tmp_path / "etl", "etl", {}, 0, {}) as writer:
        for path in [etl.path / name for name in etl.manifest["parts"]]:
            target = writer.path / path.relative_to(etl.path)
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(path.read_bytes())
        for path in (writer.path / "examples" / "valid").iterdir():
            table = pq.read_table(path)
            pq.write_table(table.set_column(0, "label", pa.array(np.zeros(len(table), np.int8))), path)
    with pytest.raises(LabelError, match=r"examples/valid: column 'label' has 0 clicks in 500 rows"):
        ranked(open_artifact(tmp_path / "etl", "etl"), tmp_path / "ranking")
