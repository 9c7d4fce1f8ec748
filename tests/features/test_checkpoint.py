"""The file that a training goes on from: whole or not there, and never taken for another training's."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from features.checkpoint import Checkpoint, Progress, below, training_key, under

TENSORS = {"weight": torch.arange(6.0).reshape(2, 3), "state": torch.get_rng_state(), "none": torch.zeros(0)}


@contextmanager
def files_of_at_most(num_bytes: int) -> Iterator[None]:
    """The system refuses to write more, as a full disk does."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_what_was_saved_is_read_again(tmp_path: Path):
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "later" / "one.safetensors", 1.0, said.append)
    progress = Progress(2, 17, [{"loss": 0.1}, {"loss": 1 / 3}])
    checkpoint.save("key", progress, TENSORS)
    assert [path.name for path in (tmp_path / "later").iterdir()] == ["one.safetensors"] and not said
    loaded = checkpoint.load("key")
    assert loaded is not None and loaded[0] == progress
    assert loaded[1].keys() == TENSORS.keys() and all(torch.equal(loaded[1][name], TENSORS[name]) for name in TENSORS)
    assert said == [f"{tmp_path}/later/one.safetensors: training goes on after epoch 2, step 17"]


def test_tensors_that_share_memory_are_saved_as_what_they_show(tmp_path: Path):
    weight = torch.arange(12.0).reshape(3, 4)
    shared = {"whole": weight, "row": weight[1], "turned": weight.T, "again": weight}
    checkpoint = Checkpoint(tmp_path / "one.safetensors", 1.0, print)
    checkpoint.save("key", Progress(), shared)
    loaded = checkpoint.load("key")
    assert loaded is not None and all(torch.equal(loaded[1][name], shared[name]) for name in shared)


def test_the_key_tells_trainings_apart():
    assert training_key({"rate": 0.1}, "data", 0) == training_key({"rate": 0.1}, "data", 0)
    others = [({"rate": 0.2}, "data", 0), ({"rate": 0.1}, "other", 0), ({"rate": 0.1}, "data", 1)]
    assert len({training_key(*parts) for parts in [({"rate": 0.1}, "data", 0), *others]}) == 4


def test_another_training_s_is_passed_over_and_said(tmp_path: Path):
    said: list[str] = []
    checkpoint = Checkpoint(tmp_path / "one.safetensors", 1.0, said.append)
    checkpoint.save("key", Progress(), TENSORS)
    assert checkpoint.load("other") is None
    assert said == [
        f"{tmp_path}/one.safetensors: is of another configuration, seed or data; training begins anew",
    ]


@pytest.mark.parametrize("content", [b"", b"no tensors", b"\x08\0\0\0\0\0\0\0{}      "])
def test_a_damaged_file_is_passed_over_and_said(content: bytes, tmp_path: Path):
    path, said = tmp_path / "early.safetensors", []
    path.write_bytes(content)
    assert Checkpoint(path, 1.0, said.append).load("key") is None
    assert f"{path}: cannot be read" in said[0]


def test_where_there_is_no_room_the_last_one_stays_and_it_is_said(tmp_path: Path):
    path, said = tmp_path / "one.safetensors", []
    checkpoint = Checkpoint(path, 0.0, said.append)
    with files_of_at_most(10_000):
        checkpoint.save("key", Progress(1), {"table": torch.zeros(100_000)})
        assert not path.exists()
    assert "the checkpoint cannot be written" in said[0] and "there is none yet" in said[0]
    assert "File too large" in said[0] and "make room on the disk" in said[0]
    checkpoint.save("key", Progress(2), TENSORS)
    with files_of_at_most(10_000):
        checkpoint.save("key", Progress(3), {"table": torch.zeros(100_000)})
    assert "the last one stays" in said[1]
    assert [file.name for file in tmp_path.iterdir()] == ["one.safetensors"]
    loaded = checkpoint.load("key")
    assert loaded is not None and loaded[0].epoch == 2


def test_one_is_due_when_its_minutes_are_over_and_not_before(tmp_path: Path):
    assert Checkpoint(tmp_path / "one.safetensors", 0.0, print).is_due
    assert not Checkpoint(tmp_path / "one.safetensors", 60.0, print).is_due


def test_names_go_under_a_prefix_and_out_again():
    both = under("model", TENSORS) | under("best", {"weight": torch.ones(1)})
    assert below("model", both).keys() == TENSORS.keys() and below("best", both)["weight"] == 1
