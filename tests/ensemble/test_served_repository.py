"""What is staged is checked as a set, linked where it is sealed, and live again after a restart."""

import json
import os
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from ensemble.config import ServingConfig
from ensemble.release import checked_release
from ensemble.rollout import commit, prepared_repository, rollout_lock
from ensemble.rollout_state import Live, RolloutError, RolloutState, live_version_folders, read_state, version_of
from ensemble.served_models import ServedModel
from ensemble.triton_config import MODEL_NAME, SETTINGS
from features.artifact import MANIFEST, ArtifactError, _content_hash, file_sha256

CONFIG = ServingConfig(http_port=1, grpc_port=2)


@pytest.fixture
def run(small_run, tmp_path) -> Path:
    """A copy of the small run that a test may damage."""
    shutil.copytree(small_run / "export", tmp_path / "run" / "export")
    return tmp_path / "run"


def sealed(run: Path, name: str) -> Path:
    return run / "export" / "repository" / MODEL_NAME / "1" / "ensemble" / name


def sealed_again(run: Path, name: str) -> None:
    """Seal and manifest say that the changed file is right: only the fit of the set is wrong."""
    seal_path = run / "export" / "repository" / MODEL_NAME / "1" / "sha256.json"
    seal = json.loads(seal_path.read_text())
    seal["sha256"][name] = file_sha256(sealed(run, name))
    seal_path.write_text(json.dumps(seal))
    manifest_path = run / "export" / MANIFEST
    manifest = json.loads(manifest_path.read_text())
    for path in (sealed(run, name), seal_path):
        part = manifest["parts"][path.relative_to(run / "export").as_posix()]
        part |= {"bytes": path.stat().st_size, "sha256": file_sha256(path)}
    manifest["content_hash"] = _content_hash(manifest)
    manifest_path.write_text(json.dumps(manifest))


def model_config(serve: Path) -> model_config_pb2.ModelConfig:
    text = (serve / "models" / MODEL_NAME / "config.pbtxt").read_text()
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_a_run_is_staged_with_links_to_what_is_sealed_and_a_copy_of_the_store(run, tmp_path):
    serve = tmp_path / "serve"
    prepared_repository(run, serve, CONFIG)
    [folder] = live_version_folders(serve)
    assert (folder / "ensemble/index/index.faiss").samefile(sealed(run, "index/index.faiss"))
    store, exported = folder / "ensemble/store/online.db", sealed(run, "store/online.db")
    assert not store.samefile(exported) and store.read_bytes() == exported.read_bytes()
    code = serve / "models" / MODEL_NAME / folder.name / "model.py"
    assert not code.samefile(sealed(run, "../model.py")), "its time is changed to load it anew"
    assert {path.name for path in code.parent.iterdir()} == {"model.py", "__pycache__"}, (
        "Triton sees nothing that changes"
    )
    identity = json.loads((folder / "identity.json").read_text())
    assert identity["sha256"]["ranker"] == file_sha256(sealed(run, "ranker.onnx"))
    assert identity["num_items"] == len(pq.read_table(sealed(run, "items.parquet")))


def test_the_model_configuration_names_the_live_versions_and_holds_the_serving_configuration(run, tmp_path):
    prepared_repository(run, tmp_path / "serve", CONFIG)
    config = model_config(tmp_path / "serve")
    assert list(config.version_policy.specific.versions) == [version_of(1)]
    told = json.loads(config.parameters[SETTINGS].string_value)
    assert told["http_port"] == 1 and told["security"]["control_key_env"] == ""


@pytest.mark.parametrize("name", ["index/index.faiss", "ranker.onnx", "store/online.db", "ensemble.pkl"])
def test_a_truncated_file_is_refused_by_name_and_nothing_is_staged(run, tmp_path, name):
    path = sealed(run, name)
    os.truncate(path, path.stat().st_size // 2)
    with pytest.raises(ArtifactError, match=path.name):
        prepared_repository(run, tmp_path / "serve", CONFIG)
    assert read_state(tmp_path / "serve") is None
    assert not list((tmp_path / "serve" / "models" / MODEL_NAME).iterdir())


def test_an_index_of_another_query_encoder_is_refused_although_every_hash_is_right(run):
    description = json.loads(sealed(run, "index/index.json").read_text())
    sealed(run, "index/index.json").write_text(json.dumps(description | {"model": "0" * 64}))
    sealed_again(run, "index/index.json")
    with pytest.raises(ArtifactError, match=r"index.faiss does not fit .*query_encoder.onnx: .*another query encoder"):
        checked_release(run)


def test_an_index_of_another_vocabulary_is_refused(run):
    description = json.loads(sealed(run, "index/index.json").read_text())
    sealed(run, "index/index.json").write_text(json.dumps(description | {"vocabulary": {"number": 9, "sha256": "f"}}))
    sealed_again(run, "index/index.json")
    with pytest.raises(ArtifactError, match="vocabulary"):
        checked_release(run)


@pytest.mark.parametrize("change", ["fewer", "another order"])
def test_vectors_of_other_items_are_refused(run, change):
    path = sealed(run, "item_vectors.parquet")
    vectors = pq.read_table(path)
    order = list(reversed(range(len(vectors)))) if change == "another order" else list(range(len(vectors) - 1))
    path.unlink()
    pq.write_table(vectors.take(order), path)
    sealed_again(run, "item_vectors.parquet")
    with pytest.raises(ArtifactError, match=r"item_vectors.parquet does not fit .*items.parquet"):
        checked_release(run)


def test_an_encoder_that_reads_what_is_no_feature_is_refused(run):
    path = sealed(run, "schema.json")
    path.write_text(path.read_text().replace('"name": "history"', '"name": "past"'))
    sealed_again(run, "schema.json")
    with pytest.raises(ArtifactError, match="encoder reads 'history', which is no feature"):
        checked_release(run)


def test_a_restart_goes_on_with_what_was_live_even_if_the_own_export_is_damaged(run, tmp_path):
    serve = tmp_path / "serve"
    prepared_repository(run, serve, CONFIG)
    before = read_state(serve)
    sealed(run, "ranker.onnx").unlink()  # the staged link keeps the bytes
    said: list[str] = []
    prepared_repository(run, serve, CONFIG, said.append)
    assert read_state(serve) == before and "ranker.onnx" in said[0]


def test_a_new_export_of_the_same_run_becomes_live_at_the_next_start_and_the_old_one_stays_for_a_rollback(
    run, tmp_path
):
    serve = tmp_path / "serve"
    prepared_repository(run, serve, CONFIG)
    code = sealed(run, "../model.py")
    code.write_text(code.read_text() + "\n# another export\n")
    manifest_path = run / "export" / MANIFEST
    manifest = json.loads(manifest_path.read_text())
    part = manifest["parts"][f"repository/{MODEL_NAME}/1/model.py"]
    part |= {"bytes": code.stat().st_size, "sha256": file_sha256(code)}
    manifest["content_hash"] = _content_hash(manifest)
    manifest_path.write_text(json.dumps(manifest))
    repository = prepared_repository(run, serve, CONFIG)
    state = read_state(serve)
    assert state and state.live == Live(stable=2) and state.before == (Live(stable=1),)
    assert repository.staged_versions() == [version_of(2), version_of(1)]
    assert list(model_config(serve).version_policy.specific.versions) == [version_of(2)]


def test_what_no_rollback_can_reach_is_removed(run, tmp_path):
    serve = tmp_path / "serve"
    repository = prepared_repository(run, serve, CONFIG)
    release = checked_release(run)
    state = read_state(serve)
    assert state
    for number in (2, 3, 4):
        repository.stage(release, number)
        releases = {**state.releases, number: dict(release.identity)}
        moved = state.moved_to(Live(stable=number), kept=2)
        state = commit(repository, RolloutState(moved.live, moved.before, releases, number))
    assert repository.staged_versions() == [version_of(4), version_of(3), version_of(2)]
    assert set(state.releases) == {2, 3, 4} and read_state(serve) == state


def test_a_disk_that_fills_up_while_staging_leaves_nothing_behind(run, tmp_path, monkeypatch):
    repository = prepared_repository(run, tmp_path / "serve", CONFIG)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(shutil, "copyfile", full)
    with pytest.raises(OSError, match="No space left"):
        repository.stage(checked_release(run), 2)
    assert repository.staged_versions() == [version_of(1)]
    assert not list((tmp_path / "serve").glob("staging-*"))


def test_only_one_change_at_a_time(tmp_path):
    with (
        rollout_lock(tmp_path),
        pytest.raises(RolloutError, match="another change is under way"),
        rollout_lock(tmp_path),
    ):
        pass


def test_a_damaged_state_says_what_to_do(tmp_path):
    (tmp_path / "rollout.json").write_text('{"format": 1')
    with pytest.raises(RolloutError, match=r"rollout.json is damaged .*remove it"):
        read_state(tmp_path)


def test_another_model_is_built_beside_and_goes_when_it_is_not_wanted(run, tmp_path, monkeypatch):
    def build(folder, serve_folder, config):
        assert live_version_folders(serve_folder), "the live release is known to who builds"
        (folder / "config.pbtxt").write_text(f'name: "{folder.name}" # {config.http_port}')

    monkeypatch.setattr("ensemble.served_repository.SERVED_MODELS", (ServedModel("beside", build),))
    prepared_repository(run, tmp_path / "serve", CONFIG)
    assert (tmp_path / "serve/models/beside/config.pbtxt").is_file()
    monkeypatch.setattr(
        "ensemble.served_repository.SERVED_MODELS", (ServedModel("beside", build, lambda config: False),)
    )
    prepared_repository(run, tmp_path / "serve", CONFIG)
    assert not (tmp_path / "serve/models/beside").exists()
