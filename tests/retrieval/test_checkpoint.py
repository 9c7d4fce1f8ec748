"""A training that was cut off goes on from its checkpoint and ends with the same bits."""

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
from safetensors.torch import load_file

from features.artifact import Artifact, open_artifact, writing
from features.batches import FeatureTables
from features.checkpoint import Checkpoint
from retrieval.config import RetrievalConfig, TwoTowerConfig
from retrieval.errors import DivergedError
from retrieval.popularity import PopularityTimeline
from retrieval.train import run, train
from retrieval.training.learning_curve import LearningCurve
from retrieval.training.step_loss import StepLoss
from retrieval.two_tower import TwoTower
from retrieval.validation import UnseenIds, Validation

CONFIG = RetrievalConfig(
    two_tower=TwoTowerConfig(embedding_dim=8, hidden_units=(16,)),
    batch_size=32,
    num_scored_items=28,
    num_hard=8,
    hard_every=5,
    learning_rate=0.01,
    max_epochs=4,
    patience=4,
    recall_at=1,
    num_proposals=5,
    checkpoint_minutes=1e-9,  # a checkpoint after every step
)


class CutOffError(Exception):
    """Stands for the end of the process."""


@pytest.fixture(scope="module")
def trained(toy_etl: Artifact) -> Callable[..., tuple[TwoTower, LearningCurve]]:
    tables, popularity, hidden = FeatureTables(toy_etl), PopularityTimeline(toy_etl), UnseenIds(toy_etl)
    validation = Validation(toy_etl, tables, popularity, hidden, 1, max_users=1_000, seed=0)

    def train_it(checkpoint: Checkpoint | None, config: RetrievalConfig = CONFIG, seed: int = 0):
        examples = toy_etl.files("examples/train/")
        return train(
            config,
            toy_etl,
            tables,
            popularity,
            examples,
            seed,
            hidden=hidden,
            validation=validation,
            checkpoint=checkpoint,
        )

    return train_it


@pytest.fixture(scope="module")
def uninterrupted(trained):
    return trained(None)


def assert_same(one: tuple[TwoTower, LearningCurve], other: tuple[TwoTower, LearningCurve]) -> None:
    states = [model.state_dict() for model, _ in (one, other)]
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
    curves = [[epoch | {"rows_per_second": 0} for epoch in curve.epochs] for _, curve in (one, other)]
    assert curves[0] == curves[1]


def cut_off_after(num_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    loss_of, steps = StepLoss.__call__, iter(range(num_steps))

    def cut(self: StepLoss, batch):
        if next(steps, None) is None:
            raise CutOffError
        return loss_of(self, batch)

    monkeypatch.setattr(StepLoss, "__call__", cut)


@pytest.mark.parametrize("num_steps", [3, 28, 29, 70])
def test_cut_off_within_an_epoch_or_at_its_end_it_ends_the_same(trained, uninterrupted, num_steps: int, tmp_path: Path):
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "early.safetensors", CONFIG.checkpoint_minutes, said.append)
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(num_steps, patch)
        with pytest.raises(CutOffError):
            trained(checkpoint)
    assert not said
    assert_same(trained(checkpoint), uninterrupted)
    assert "training goes on after epoch" in said[0]


def test_checkpoints_change_nothing_and_a_finished_training_is_not_run_again(trained, uninterrupted, tmp_path: Path):
    checkpoint = Checkpoint(tmp_path / "early.safetensors", CONFIG.checkpoint_minutes, print)
    assert_same(trained(checkpoint), uninterrupted)
    with pytest.MonkeyPatch.context() as patch:
        cut_off_after(0, patch)
        assert_same(trained(checkpoint), uninterrupted)


@pytest.mark.parametrize("other", [{"seed": 1}, {"config": replace(CONFIG, label_smoothing=0.1)}])
def test_a_checkpoint_of_another_training_is_passed_over_and_said(trained, other, tmp_path: Path):
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "early.safetensors", CONFIG.checkpoint_minutes, said.append)
    trained(checkpoint, **({"config": replace(CONFIG, max_epochs=1)} | other))
    assert not said
    model = trained(checkpoint, config=replace(CONFIG, max_epochs=2))
    assert "another configuration, seed or data" in said[0]
    assert_same(model, trained(None, config=replace(CONFIG, max_epochs=2)))


KILLED = """
import json, sys
from pathlib import Path
from features.artifact import open_artifact, writing
from retrieval.config import RetrievalConfig, TwoTowerConfig
from retrieval.train import run

etl, out, config = Path(sys.argv[1]), Path(sys.argv[2]), json.loads(sys.argv[3])
config["two_tower"] = TwoTowerConfig(**config["two_tower"])
etl = open_artifact(etl, "etl")
with writing(out / "retrieval", "retrieval", {}, 0, {"etl": etl.content_hash}) as writer:
    run(RetrievalConfig(**config), etl, 0, writer, checkpoints=out / ".retrieval-checkpoint")
"""


KILLED_CONFIG = replace(CONFIG, max_epochs=8, patience=8)


def finished(etl: Artifact, folder: Path, say: Callable[[str], None] = print) -> Artifact:
    with writing(folder / "retrieval", "retrieval", {}, 0, {"etl": etl.content_hash}) as writer:
        run(KILLED_CONFIG, etl, 0, writer, checkpoints=folder / ".retrieval-checkpoint", say=say)
    return open_artifact(folder / "retrieval", "retrieval")


@pytest.fixture(scope="module")
def whole(toy_etl: Artifact, tmp_path_factory: pytest.TempPathFactory) -> Artifact:
    return finished(toy_etl, tmp_path_factory.mktemp("whole"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["early", "refit"])
def test_a_killed_process_leaves_what_the_next_one_goes_on_from(
    toy_etl: Artifact, whole: Artifact, name: str, tmp_path: Path
):
    arguments = [str(toy_etl.path), str(tmp_path), json.dumps(asdict(KILLED_CONFIG))]
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, *arguments],
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        stdout=subprocess.DEVNULL,
    )
    file = tmp_path / ".retrieval-checkpoint" / f"{name}.safetensors"
    while not file.is_file():
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "retrieval").exists()
    said: list[str] = []
    resumed = finished(toy_etl, tmp_path, said.append)
    assert any(line.startswith(f"{file}: training goes on after") for line in said)
    assert not file.parent.exists()
    assert whole.content_hash == resumed.content_hash
    one, other = (load_file(artifact.file("model.safetensors")) for artifact in (whole, resumed))
    assert all(torch.equal(one[part], other[part]) for part in one)
    assert whole.file("learning_curve.json").read_bytes() == resumed.file("learning_curve.json").read_bytes()


def test_a_training_that_leaves_the_finite_numbers_says_when_and_what_to_do(trained):
    config = replace(CONFIG, table_learning_rate=1e38)
    with pytest.raises(DivergedError, match=r"step \d+ of epoch 1 has the loss .*lower retrieval\.learning-rate"):
        trained(None, config=config)
