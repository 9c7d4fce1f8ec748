"""The ranking stage of impression logs: what it learns, and that it does so again."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy.optimize import minimize

from features.artifact import Artifact, open_artifact, writing
from features.bfloat16 import has_fast_bf16
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import LabelError, click_schema
from ranking.clicks.logistic import ClickLogistic
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import evaluated, mean_log_loss, predicted, run, train
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig, RankingConfig
from ranking.training.learning_curve import CLOCK
from ranking.training.loop import DivergedError

NETWORK = NetworkConfig(embedding_dim=4, dropout=0, dlrm=DlrmConfig(bottom_units=(8,), top_units=(16,)))
CLICKS = ClickConfig(batch_size=64, max_epochs=12, table_learning_rate=0.05)
CONFIG = RankingConfig(network=NETWORK, clicks=CLICKS)


@pytest.fixture(scope="module")
def ranking(etl: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return ranked(etl, tmp_path_factory.mktemp("ranking") / "ranking")


def ranked(etl: Artifact, path: Path, config: RankingConfig = CONFIG, seed: int = 0) -> Artifact:
    with writing(path, "ranking", {}, seed, {"etl": etl.content_hash}) as writer:
        run(config, etl, seed, writer)
    return open_artifact(path, "ranking", inputs=[etl])


def curve_of(artifact: Artifact) -> list[dict]:
    """The learning curve without the clock."""
    epochs = json.loads(artifact.file("learning_curve.json").read_text())
    return [{name: value for name, value in epoch.items() if name not in CLOCK} for epoch in epochs]


def part(etl: Artifact, name: str, batch_size: int = 64) -> ClickBatches:
    return ClickBatches(etl.files(f"examples/{name}/"), click_schema(etl), batch_size, 0)


def test_it_learns_that_two_categories_differ_where_a_logistic_regression_cannot(etl: Artifact, ranking: Artifact):
    fitted, valid = part(etl, "train"), part(etl, "valid")
    logistic = ClickLogistic(click_schema(etl), fitted.statistics, l2=1.0)
    train(logistic, fitted, valid, replace(CLICKS, learning_rate=0.03), "logistic regression")
    assert evaluated(logistic, valid)["valid_auc"] < 0.6
    assert ranking.metrics["valid_auc"] > 0.85


def test_the_artifact_says_what_was_reached_and_on_which_vocabulary(click_world, ranking: Artifact):
    curve = json.loads(ranking.file("learning_curve.json").read_text())
    losses = [epoch["valid_log_loss"] for epoch in curve]
    best = ranking.metrics["best_epoch"]
    assert best == int(np.argmin(losses)) > 0
    assert ranking.metrics["valid_log_loss"] == losses[best]
    assert ranking.metrics["valid_auc"] == curve[best]["valid_auc"]
    assert ranking.metrics["vocabulary"] == click_world.vocabulary and ranking.metrics["kind"] == "impressions"
    assert len(losses) - 1 in (best + CLICKS.patience, CLICKS.max_epochs)
    assert [epoch["epoch"] for epoch in curve] == list(range(len(curve)))
    assert [epoch["kept"] for epoch in curve] == [number == best for number in range(len(curve))]
    told = {"train_log_loss", "learning_rate", "table_learning_rate", "seconds", "rows_per_second"}
    assert not told & curve[0].keys() and all(told <= epoch.keys() for epoch in curve[1:])
    seconds = sum(epoch["seconds"] for epoch in curve[1:])
    assert ranking.metrics["rows_per_second"] == pytest.approx(2_000 * (len(curve) - 1) / seconds)


def test_the_saved_and_the_exported_model_are_the_best_one(etl: Artifact, ranking: Artifact):
    valid = part(etl, "valid")
    model = ClickRanker(click_schema(etl), NETWORK, part(etl, "train").statistics, CLICKS.l2)
    model.load_state_dict(load_file(ranking.file("model.safetensors")))
    assert evaluated(model, valid)["valid_log_loss"] == pytest.approx(ranking.metrics["valid_log_loss"], rel=1e-6)
    session = onnxruntime.InferenceSession(str(ranking.file("ranker.onnx")))
    names = [node.name for node in session.get_inputs()]
    table = pa.concat_tables([pq.read_table(path) for path in etl.files("examples/valid/")])
    (logit_N,) = session.run(["logit"], {name: table[name].to_numpy() for name in names})
    np.testing.assert_allclose(1 / (1 + np.exp(-logit_N)), predicted(model, valid)[0], atol=1e-6)


def test_equal_inputs_and_seed_give_an_equal_artifact(etl: Artifact, tmp_path: Path):
    config = RankingConfig(network=replace(NETWORK, dropout=0.2), clicks=replace(CLICKS, max_epochs=2))
    one, two = ranked(etl, tmp_path / "one", config), ranked(etl, tmp_path / "two", config)
    other = ranked(etl, tmp_path / "other", config, seed=1)
    assert one.content_hash == two.content_hash
    parts = ("model.safetensors", "ranker.onnx")
    assert all(one.file(name).read_bytes() == two.file(name).read_bytes() for name in parts)
    assert curve_of(one) == curve_of(two)
    assert one.file("model.safetensors").read_bytes() != other.file("model.safetensors").read_bytes()


def test_where_there_is_nothing_to_learn_it_stays_at_the_click_rate(click_world, tmp_path: Path):
    enough = replace(click_world, num_rows={"train": 2_000, "valid": 20_000, "test": 10})  # to leave chance no say
    etl = enough.artifact(tmp_path / "etl", learnable=False)
    config = RankingConfig(network=NETWORK, clicks=replace(CLICKS, learning_rate=0.1, table_learning_rate=0.5, l2=0.0))
    artifact = ranked(etl, tmp_path / "ranking", config)
    assert artifact.metrics["best_epoch"] == 0 and artifact.metrics["valid_auc"] == 0.5


def test_the_logistic_regression_finds_the_minimum_that_scipy_finds(click_world, etl: Artifact):
    """Sum of the log losses and l2 / 2 of the squared weights, the bias free."""
    l2, fitted = 5.0, part(etl, "train", 200)
    table = pa.concat_tables([pq.read_table(path) for path in etl.files("examples/train/")])
    label = table["label"].to_numpy()
    inputs = [np.eye(num)[table[name].to_numpy()] for name, num in click_world.num_ids.items()]
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


@pytest.mark.parametrize(
    "changed",
    [
        {"bf16": "auto"},
        {"clip_norm": 0.5, "warmup_epochs": 0.5, "decay": "cosine", "final_rate_share": 0.1},
        {"warmup_epochs": 1.0, "decay": "linear"},
    ],
)
def test_it_learns_as_well_in_bfloat16_with_clipping_and_with_every_schedule(
    etl: Artifact, ranking: Artifact, changed: dict
):
    fitted, valid = part(etl, "train"), part(etl, "valid")
    torch.manual_seed(0)
    model = ClickRanker(click_schema(etl), NETWORK, fitted.statistics, CLICKS.l2)
    curve = train(model, fitted, valid, replace(CLICKS, **changed), "ranking")
    assert curve.best["valid_log_loss"] < ranking.metrics["valid_log_loss"] + 0.02
    if "bf16" not in changed or has_fast_bf16():  # auto: other processors go on in float32
        assert curve.epochs[1]["train_log_loss"] != curve_of(ranking)[1]["train_log_loss"], "the keys do something"
    assert all(weight.dtype == torch.float32 for weight in model.parameters())


def test_the_curve_says_the_rates_that_the_formula_gives(etl: Artifact):
    """32 steps an epoch, 16 of them warm-up; cosine over the 80 behind them."""
    config = replace(CLICKS, max_epochs=3, patience=3, warmup_epochs=0.5, decay="cosine", final_rate_share=0.2)
    fitted = part(etl, "train")
    model = ClickRanker(click_schema(etl), NETWORK, fitted.statistics, CLICKS.l2)
    curve = train(model, fitted, part(etl, "valid"), config, "ranking")
    for epoch, step in ((1, 31), (2, 63), (3, 95)):
        share = 0.2 + 0.8 * (1 + np.cos(np.pi * (step - 16) / 80)) / 2
        assert curve.epochs[epoch]["learning_rate"] == pytest.approx(CLICKS.learning_rate * share)
        assert curve.epochs[epoch]["table_learning_rate"] == pytest.approx(CLICKS.table_learning_rate * share)


def test_every_epoch_is_told_as_it_ends_and_may_end_the_training(etl: Artifact):
    told = []

    class EnoughError(Exception):
        pass

    def stops_at_two(epoch: int, reached: dict[str, float]) -> None:
        told.append((epoch, reached["valid_log_loss"]))
        if epoch == 2:
            raise EnoughError

    fitted = part(etl, "train")
    model = ClickRanker(click_schema(etl), NETWORK, fitted.statistics, CLICKS.l2)
    with pytest.raises(EnoughError):
        train(model, fitted, part(etl, "valid"), CLICKS, "ranking", on_epoch=stops_at_two)
    assert [epoch for epoch, _ in told] == [0, 1, 2] and told[2][1] < told[0][1]


def test_logits_of_any_size_give_the_loss_of_the_formula():
    """log(1 + exp(-x)) of a click: at 1e4, exp would overflow, and the probability would be 0 or 1."""
    for logit, label, loss in (
        (1e4, 1.0, 0.0),
        (1e4, 0.0, 1e4),
        (-1e4, 1.0, 1e4),
        (-1e4, 0.0, 0.0),
        (0.0, 1.0, np.log(2)),
    ):
        found = mean_log_loss(torch.tensor([logit]), torch.tensor([label]))
        assert found.item() == pytest.approx(loss)
        half = mean_log_loss(torch.tensor([logit], dtype=torch.bfloat16), torch.tensor([label], dtype=torch.int8))
        assert half.dtype == torch.float32 and half.item() == pytest.approx(loss, rel=1e-2)


def test_a_run_that_diverges_says_so(etl: Artifact, tmp_path: Path):
    config = RankingConfig(network=NETWORK, clicks=replace(CLICKS, learning_rate=1e30))
    with pytest.raises(DivergedError, match=r"ranking: .* needed finite numbers; lower ranking\.clicks\.learning_rate"):
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
