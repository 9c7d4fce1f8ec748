import json
import mmap
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from features.artifact import FORMAT_VERSION, MANIFEST, ArtifactError, is_current, open_artifact, writing

CONFIG = {"dim": 8, "widths": [4, 2]}
INPUTS = {"etl": "a" * 64}


def write(path: Path, *, text: str = "weights", clock: str = "1", seed: int = 3, config: dict = CONFIG) -> Path:
    with writing(path, "train", config, seed, INPUTS) as writer:
        (writer.path / "folder").mkdir()
        (writer.path / "weights").write_text(text)
        (writer.path / "folder" / "clock.pkl").write_text(clock)
        writer.volatile.append("folder/*.pkl")
        writer.rows["weights"] = 7
        writer.metrics["loss"] = 0.5
    return path


def edit(path: Path, change: Callable[[dict], None]) -> None:
    manifest = json.loads((path / MANIFEST).read_text())
    change(manifest)
    (path / MANIFEST).write_text(json.dumps(manifest))


def test_an_artifact_is_read_as_it_was_written(tmp_path: Path) -> None:
    artifact = open_artifact(write(tmp_path / "a"), "train")
    assert artifact.stage == "train"
    assert artifact.metrics == {"loss": 0.5}
    assert artifact.file("weights").read_text() == "weights"
    assert artifact.manifest["parts"]["weights"]["rows"] == 7
    assert artifact.manifest["seed"] == 3 and artifact.manifest["config"] == CONFIG
    assert artifact.manifest["versions"]["cascade"] and artifact.manifest["versions"]["nvtabular"]


def test_a_manifest_has_the_peak_memory_of_its_stage_alone(tmp_path: Path) -> None:
    size = 300 * 2**20
    with mmap.mmap(-1, size) as before:
        before[:] = b"1" * size
    small = open_artifact(write(tmp_path / "a"), "train").manifest["peak_memory_bytes"]
    with writing(tmp_path / "b", "train", CONFIG, 3, INPUTS), mmap.mmap(-1, size) as held:
        held[:] = b"1" * size
    large = open_artifact(tmp_path / "b", "train").manifest["peak_memory_bytes"]
    assert large - small > 0.9 * size


def test_a_manifest_names_the_commit_that_made_it(tmp_path: Path) -> None:
    commit = open_artifact(write(tmp_path / "a"), "train").manifest["commit"]
    is_checkout = (Path(__file__).resolve().parents[2] / ".git").exists()
    assert bool(re.fullmatch(r"[0-9a-f]{40}(-dirty)?", commit or "")) == is_checkout


def test_a_part_that_the_manifest_does_not_list_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    (path / "extra").write_text("")
    with pytest.raises(ArtifactError, match="no part 'extra'"):
        open_artifact(path, "train").file("extra")


def test_an_exception_in_the_body_leaves_nothing_behind_and_keeps_the_older_artifact(tmp_path: Path) -> None:
    path = write(tmp_path / "a", text="old")

    def interrupted() -> None:
        with writing(path, "train", CONFIG, 3, INPUTS) as writer:
            (writer.path / "weights").write_text("new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert open_artifact(path, "train").file("weights").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_process_killed_in_the_middle_leaves_nothing_under_the_final_name(tmp_path: Path) -> None:
    path = tmp_path / "a"
    code = (
        "import os, pathlib, signal, sys\n"
        "from features.artifact import writing\n"
        "with writing(pathlib.Path(sys.argv[1]), 'train', {}, 0, {}) as writer:\n"
        "    (writer.path / 'weights').write_text('half')\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not path.exists()
    assert not is_current(path, "train", {}, 0, {})
    assert open_artifact(write(path), "train").file("weights").read_text() == "weights"
    assert os.listdir(tmp_path) == ["a"]


def test_rewriting_replaces_every_part(tmp_path: Path) -> None:
    path = write(tmp_path / "a", text="old")
    with writing(path, "train", CONFIG, 3, INPUTS) as writer:
        (writer.path / "other").write_text("new")
    assert sorted(os.listdir(path)) == [MANIFEST, "other"]


@pytest.mark.parametrize("name", ["a [1]*?", "ünï-\u4e16\u754c"])
def test_any_folder_name_will_do(tmp_path: Path, name: str) -> None:
    write(tmp_path / name)
    open_artifact(write(tmp_path / name, text="again"), "train")


def test_an_artifact_leaves_its_neighbours_alone(tmp_path: Path) -> None:
    with writing(tmp_path / "a.b", "train", CONFIG, 3, INPUTS) as writer:
        (writer.path / "weights").write_text("b")
        write(tmp_path / "a")
    open_artifact(tmp_path / "a.b", "train")


@pytest.mark.parametrize("name", ["weights", "folder/clock.pkl"])
@pytest.mark.parametrize("damage", ["missing", "shorter", "longer", "changed"])
def test_every_damage_to_a_part_names_the_file(tmp_path: Path, name: str, damage: str) -> None:
    path = write(tmp_path / "a")
    file = path / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    else:
        new = {"shorter": content[:-1], "longer": content + b"x", "changed": bytes([content[0] ^ 1]) + content[1:]}
        file.write_bytes(new[damage])
    with pytest.raises(ArtifactError, match=f"{file} is .*rerun `train`"):
        open_artifact(path, "train")


@pytest.mark.parametrize(
    "text",
    ["", "{", "[]", "null", "{}", '"train"', "\udcff", f'{{"stage": "train", "format_version": {FORMAT_VERSION}}}'],
)
def test_every_damage_to_the_manifest_names_it(tmp_path: Path, text: str) -> None:
    path = write(tmp_path / "a")
    (path / MANIFEST).write_bytes(text.encode(errors="surrogateescape"))
    with pytest.raises(ArtifactError, match=f"{path / MANIFEST} is damaged"):
        open_artifact(path, "train")
    assert not is_current(path, "train", CONFIG, 3, INPUTS)


@pytest.mark.parametrize("key", ["parts", "inputs", "config", "seed", "content_hash", "metrics"])
@pytest.mark.parametrize("value", [None, 1, []])
def test_a_manifest_with_a_wrong_or_missing_field_is_refused(tmp_path: Path, key: str, value: object) -> None:
    path = write(tmp_path / "a")
    edit(path, lambda manifest: manifest.pop(key) if value is None else manifest.update({key: value}))
    with pytest.raises(ArtifactError, match=str(path / MANIFEST)):
        open_artifact(path, "train")


def test_a_manifest_changed_by_hand_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    edit(path, lambda manifest: manifest["config"].update({"dim": 9}))
    with pytest.raises(ArtifactError, match="changed by hand"):
        open_artifact(path, "train")


def test_a_folder_without_a_manifest_is_no_artifact(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    (path / MANIFEST).unlink()
    with pytest.raises(ArtifactError, match="is not a finished train artifact; run `train` first"):
        open_artifact(path, "train")


def test_an_artifact_of_another_stage_or_format_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a")
    with pytest.raises(ArtifactError, match="written by stage 'train', needed 'etl'"):
        open_artifact(path, "etl")
    edit(path, lambda manifest: manifest.update(format_version=FORMAT_VERSION + 1))
    with pytest.raises(ArtifactError, match="format version"):
        open_artifact(path, "train")


def test_an_artifact_made_from_other_inputs_is_refused(tmp_path: Path) -> None:
    first, second = (open_artifact(write(tmp_path / name, text=name), "train") for name in "ab")
    with writing(tmp_path / "index", "index", {}, 0, {"train": first.content_hash}) as writer:
        (writer.path / "index").write_text("")
    open_artifact(tmp_path / "index", "index", inputs=[first])
    with pytest.raises(ArtifactError, match="made from another train artifact"):
        open_artifact(tmp_path / "index", "index", inputs=[second])


def test_is_current_sees_stage_config_seed_inputs_and_missing_parts(tmp_path: Path) -> None:
    path = write(tmp_path / "a", config=CONFIG | {"widths": (4, 2)})
    assert is_current(path, "train", CONFIG, 3, INPUTS)
    assert is_current(path, "train", CONFIG | {"widths": (4, 2)}, 3, INPUTS)
    assert not is_current(path, "etl", CONFIG, 3, INPUTS)
    assert not is_current(path, "train", CONFIG | {"dim": 9}, 3, INPUTS)
    assert not is_current(path, "train", CONFIG, 4, INPUTS)
    assert not is_current(path, "train", CONFIG, 3, {"etl": "b" * 64})
    assert not is_current(tmp_path / "b", "train", CONFIG, 3, INPUTS)
    (path / "weights").unlink()
    assert not is_current(path, "train", CONFIG, 3, INPUTS)


def test_the_content_hash_sees_everything_but_volatile_parts(tmp_path: Path) -> None:
    def content_hash(**changes: object) -> str:
        return open_artifact(write(tmp_path / "a", **changes), "train").content_hash  # pyright: ignore

    same = content_hash()
    assert content_hash() == same
    assert content_hash(clock="2") == same
    assert content_hash(text="other") != same
    assert content_hash(seed=4) != same
    assert content_hash(config={"dim": 9}) != same


def test_a_config_with_number_keys_and_tuples_can_be_read_back(tmp_path: Path) -> None:
    open_artifact(write(tmp_path / "a", config={2: "b", 10: ("a",)}), "train")
