"""A click model's training that was cut off goes on from its checkpoint and ends with the same bits."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from features.artifact import Artifact, open_artifact, writing
from features.checkpoint import Checkpoint
from ranking.clicks.batches import ClickBatches
from ranking.clicks.checks import click_schema
from ranking.clicks.ranker import ClickRanker
from ranking.clicks.train import run, train
from ranking.config import ClickConfig, DlrmConfig, NetworkConfig, RankingConfig
from ranking.training.learning_curve import CLOCK, LearningCurve
from ranking.training.trained_weights import TrainedWeights

NETWORK = NetworkConfig(embedding_dim=4, dropout=0.2, dlrm=DlrmConfig(bottom_units=(8,), top_units=(16,)))
CLICKS = ClickConfig(
    batch_size=128,  # 16 steps an epoch
    max_epochs=4,
    patience=4,
    learning_rate=5e-3,
    table_learning_rate=0.05,
    clip_norm=1.0,
    warmup_epochs=0.5,
    decay="cosine",
    checkpoint_minutes=1e-9,  # a checkpoint after every step
)
Trained = tuple[ClickRanker, LearningCurve]


class CutOffError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def trained(etl: Artifact) -> Callable[..., Trained]:
    schema = click_schema(etl)
    fitted, held_out = (ClickBatches(etl.files(f"examples/{name}/"), schema, 128, 0) for name in ("train", "valid"))

    def train_it(checkpoint: Checkpoint | None = None, key: str = "key", network: NetworkConfig = NETWORK) -> Trained:
        torch.manual_seed(0)
        model = ClickRanker(schema, network, fitted.statistics, CLICKS.l2)
        return model, train(model, fitted, held_out, CLICKS, "ranking", checkpoint=checkpoint, key=key)

    return train_it


@pytest.fixture(scope="module")
def uninterrupted(trained) -> Trained:
    return trained()


def assert_same(one: Trained, other: Trained) -> None:
    states = [model.state_dict() for model, _ in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    curves = [
        [{name: value for name, value in epoch.items() if name not in CLOCK} for epoch in curve.epochs]
        for _, curve in (one, other)
    ]
    assert curves[0] == curves[1] and not any(model.training for model, _ in (one, other))


def cut_off_after(num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    step, steps = TrainedWeights.step, iter(range(num_steps))

    def cut(self: TrainedWeights, loss: torch.Tensor) -> None:
        if next(steps, None) is None:
            raise CutOffError
        step(self, loss)

    monkeypatch.setattr(TrainedWeights, "step", cut)


@pytest.mark.parametrize("num_steps", [1, 15, 16, 17, 40])
def test_cut_off_within_an_epoch_or_at_its_end_it_ends_the_same(trained, uninterrupted, num_steps: int, tmp_path: Path):
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "clicks.safetensors", CLICKS.checkpoint_minutes, said.append)
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(num_steps, patch)
        with pytest.raises(CutOffError):
            trained(checkpoint)
    assert not said
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(64 - num_steps, patch)  # it would raise if a step were made twice
        assert_same(trained(checkpoint), uninterrupted)
    epoch, step = divmod(num_steps, 16)
    assert said == [f"{tmp_path}/clicks.safetensors: training goes on after epoch {epoch}, step {step}"]


def test_tables_that_move_in_the_backward_pass_go_on_with_what_their_optimizer_had_gathered(trained, tmp_path: Path):
    fused = replace(NETWORK, tables="fused")
    checkpoint = Checkpoint(tmp_path / "clicks.safetensors", CLICKS.checkpoint_minutes, lambda line: None)
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(20, patch)
        with pytest.raises(CutOffError):
            trained(checkpoint, network=fused)
    resumed, whole = trained(checkpoint, network=fused), trained(network=fused)
    assert_same(resumed, whole)
    one, other = (model.table_optimizer_state() for model, _ in (resumed, whole))
    assert one.keys() == other.keys() == {"C1", "C2", "C3"}
    assert all(torch.equal(one[name], other[name]) and one[name].sum() > 0 for name in one)


def test_cut_off_twice_it_ends_the_same(trained, uninterrupted, tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "clicks.safetensors", CLICKS.checkpoint_minutes, lambda line: None)
    for num_steps in (20, 13):
        with pytest.MonkeyPatch.context() as patch:
            cut_off_after(num_steps, patch)
            with pytest.raises(CutOffError):
                trained(checkpoint)
    assert_same(trained(checkpoint), uninterrupted)


def test_checkpoints_change_nothing_and_a_finished_training_is_not_run_again(trained, uninterrupted, tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "clicks.safetensors", CLICKS.checkpoint_minutes, lambda line: None)
    assert_same(trained(checkpoint), uninterrupted)
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(0, patch)
        assert_same(trained(checkpoint), uninterrupted)


def test_a_checkpoint_of_another_training_is_passed_over_and_said(trained, uninterrupted, tmp_path: Path):
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "clicks.safetensors", CLICKS.checkpoint_minutes, said.append)
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(20, patch)
        with pytest.raises(CutOffError):
            trained(checkpoint, key="another configuration")
    assert_same(trained(checkpoint), uninterrupted)
    assert len(said) == 1 and "is of another configuration, seed or data; training begins anew" in said[0]


KILLED = """
import json, sys
from pathlib import Path
from features.artifact import open_artifact, writing
from pipelines.config import validated
from ranking.clicks.train import run

etl, out = open_artifact(Path(sys.argv[1]), "etl"), Path(sys.argv[2])
config = validated({"ranking": json.loads(sys.argv[3])}, "the test").ranking
with writing(out / "ranking", "ranking", {}, 0, {"etl": etl.content_hash}) as writer:
    run(config, etl, 0, writer, checkpoints=out / ".ranking.checkpoints")
"""
CONFIG = RankingConfig(network=NETWORK, clicks=replace(CLICKS, max_epochs=8, patience=8))


def finished(etl: Artifact, folder: Path, config: RankingConfig = CONFIG, say=lambda line: None) -> Artifact:
    with writing(folder / "ranking", "ranking", {}, 0, {"etl": etl.content_hash}) as writer:
        run(config, etl, 0, writer, checkpoints=folder / ".ranking.checkpoints", say=say)
    return open_artifact(folder / "ranking", "ranking")


@pytest.fixture(scope="module")
def whole(etl: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return finished(etl, tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("seconds", [0.1, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.0, 0.3))])
def test_a_killed_process_leaves_what_the_next_one_goes_on_from(
    etl: Artifact, whole: Artifact, seconds: float, tmp_path: Path
):
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(etl.path), str(tmp_path), json.dumps(asdict(CONFIG))],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[3])},
        stdout=subprocess.DEVNULL,
    )
    file = tmp_path / ".ranking.checkpoints" / "clicks.safetensors"
    while not file.is_file():
        assert process.poll() is None
        time.sleep(0.005)
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "ranking").exists()
    said: list[str] = []
    resumed = finished(etl, tmp_path, say=said.append)
    assert said[0].startswith(f"{file}: training goes on after")
    assert whole.content_hash == resumed.content_hash
    for name in ("model.safetensors", "ranker.onnx"):
        assert whole.file(name).read_bytes() == resumed.file(name).read_bytes()


@pytest.mark.parametrize("changed", ["configuration", "seed", "schema"])
def test_what_is_left_of_another_run_is_not_taken_up(click_world, etl: Artifact, changed: str, tmp_path: Path):
    """`schema`: the same rows, and one category more; its tables have another shape."""
    file, said = tmp_path / ".ranking.checkpoints" / "clicks.safetensors", []
    config = replace(CONFIG, clicks=replace(CLICKS, max_epochs=2))
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(5, patch)
        with pytest.raises(CutOffError):
            finished(etl, tmp_path, config)
    assert file.is_file()
    if changed == "schema":
        etl = replace(click_world, num_ids=click_world.num_ids | {"C3": 24}).artifact(tmp_path / "etl")
    elif changed == "configuration":
        config = replace(config, clicks=replace(config.clicks, l2=1.0))
    seed = 1 if changed == "seed" else 0
    with writing(tmp_path / "ranking", "ranking", {}, seed, {}) as writer:
        run(config, etl, seed, writer, checkpoints=file.parent, say=said.append)
    assert said == [f"{file}: is of another configuration, seed or data; training begins anew"]
