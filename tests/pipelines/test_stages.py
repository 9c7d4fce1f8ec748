"""Running the stages: what is skipped, what runs again, and what stops a run."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from features.artifact import ArtifactError, writing
from features.logs import LogError
from features.split import SplitError
from pipelines import stages
from pipelines.config import CascadeConfig, as_document, load_config, load_saved_config
from pipelines.etl_stage import QUARANTINE_FILE
from pipelines.stages import CONFIG_FILE, STAGE_NAMES, run_stages

Lines = list[str]


@pytest.fixture
def config(small_world) -> CascadeConfig:
    return load_config(None, small_world.words())


@pytest.fixture
def out(small_run: Path, tmp_path: Path) -> Path:
    """A copy of the finished run, to change."""
    return Path(shutil.copytree(small_run, tmp_path / "run", ignore=shutil.ignore_patterns("done", "serve")))


def said(config: CascadeConfig, out: Path, only: str | None = None) -> Lines:
    """What a run says, without the clock and the metrics."""
    lines: Lines = []
    run_stages(config, out, only, lines.append)
    return [" ".join(line.split(" in ")[0].split()) for line in lines]


def content_hashes(out: Path) -> dict[str, str]:
    return {stage: json.loads((out / stage / "manifest.json").read_text())["content_hash"] for stage in STAGE_NAMES}


def skipped(*stages: str) -> Lines:
    return [f"{stage} unchanged, skipped" for stage in stages]


def ran(stage: str) -> Lines:
    return [f"{stage} running", f"{stage} done"]


def test_a_run_leaves_an_artifact_a_stage_and_the_configuration_it_had(out, config):
    assert sorted(path.name for path in out.iterdir()) == sorted([*STAGE_NAMES, CONFIG_FILE])
    assert load_saved_config(out / CONFIG_FILE) == config


def test_an_unchanged_run_skips_every_stage(out, config):
    assert said(config, out) == skipped(*STAGE_NAMES)


def test_an_export_whose_store_has_rows_of_another_form_is_made_again(out, config, monkeypatch):
    *others, export = stages.STAGES
    monkeypatch.setattr(stages, "STAGES", (*others, replace(export, forms={"store_rows": "another"})))
    assert said(config, out) == skipped(*STAGE_NAMES[:-1]) + ran("export")
    assert said(config, out) == skipped(*STAGE_NAMES)


def test_a_stage_made_again_with_the_same_content_leaves_those_behind_it_alone(out, config):
    before = content_hashes(out)
    shutil.rmtree(out / "retrieval")
    assert said(config, out) == [
        *skipped("etl"), *ran("retrieval"), *skipped("index", "ranking", "export")
    ]  # fmt: skip
    assert content_hashes(out) == before


def test_a_changed_configuration_reruns_its_stage_and_those_that_depend_on_it(out, small_world):
    changed = load_config(None, small_world.words(index__exact_up_to="0"))
    expected = [*skipped("etl", "retrieval"), *ran("index"), *skipped("ranking"), *ran("export")]
    assert said(changed, out) == expected
    assert said(changed, out) == skipped(*STAGE_NAMES)


def test_what_only_serving_and_evaluation_read_reruns_nothing(out, small_world):
    changed = load_config(None, small_world.words(serving__http_port="0", evaluation__slate_k="5"))
    assert said(changed, out) == skipped(*STAGE_NAMES)


def test_another_seed_reruns_every_stage(out, small_world):
    changed = load_config(None, small_world.words(seed="43"))
    assert [line for line in said(changed, out) if line.endswith("done")] == [f"{name} done" for name in STAGE_NAMES]


def damage(file: Path) -> None:
    """Change a byte, not the size."""
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(bytes(content))


def test_a_damaged_artifact_is_named_and_made_again(out, config):
    before = content_hashes(out)
    damage(out / "index" / "index.faiss")
    lines = said(config, out)
    assert lines[2].startswith(f"index {out}/index/index.faiss is damaged")
    assert [*lines[:2], *lines[3:]] == [
        *skipped("etl", "retrieval"), *ran("index"), *skipped("ranking", "export")
    ]  # fmt: skip
    assert content_hashes(out) == before


def test_a_stage_alone_refuses_a_damaged_artifact_and_its_own_stage_repairs_it(out, config):
    file = out / "retrieval" / "query_encoder.onnx"
    damage(file)
    with pytest.raises(ArtifactError, match=f"{file} is damaged: .*rerun `retrieval`"):
        said(config, out, "index")
    assert said(config, out, "retrieval")[1:] == ran("retrieval")
    assert said(config, out, "index") == skipped("index")


def test_a_stage_alone_refuses_an_artifact_of_another_run(out, config):
    with writing(out / "index", "index", as_document(config.index), config.seed, {"retrieval": "0" * 64}) as writer:
        (writer.path / "index.faiss").write_bytes(b"another")
    with pytest.raises(ArtifactError, match=r"index/manifest\.json: was made from another retrieval artifact"):
        said(config, out, "export")


def test_a_stage_alone_refuses_an_artifact_of_another_stage(out, config):
    shutil.rmtree(out / "index")
    shutil.copytree(out / "ranking", out / "index")
    with pytest.raises(ArtifactError, match=r"index/manifest\.json was written by stage 'ranking', needed 'index'"):
        said(config, out, "export")


@pytest.mark.parametrize("stage", STAGE_NAMES[1:])
def test_a_stage_alone_needs_the_stages_before_it(stage, config, tmp_path):
    with pytest.raises(ArtifactError, match=r"etl/manifest\.json is missing: .* run `etl` first"):
        said(config, tmp_path / "run", stage)
    assert not (tmp_path / "run").exists()


def test_a_stage_alone_refuses_a_configuration_that_the_stages_before_it_did_not_have(out, config, small_world):
    changed = load_config(None, small_world.words(retrieval__patience="9"))
    with pytest.raises(ArtifactError, match=r"retrieval/manifest\.json: was made with another \[retrieval\]"):
        said(changed, out, "ranking")
    assert load_saved_config(out / CONFIG_FILE) == config


def test_the_stages_one_by_one_make_what_the_whole_run_makes(out, config):
    before = content_hashes(out)
    for stage in STAGE_NAMES:
        shutil.rmtree(out / stage)
    for stage in STAGE_NAMES:
        assert said(config, out, stage) == ran(stage)
    assert content_hashes(out) == before


# ---- logs of one's own ----


@pytest.fixture
def own_logs(tmp_path: Path) -> Callable[..., CascadeConfig]:
    """Writes a log of 60 good rows, and whatever rows are given, and returns the configuration for it."""

    def make(*rows: str, **more: str) -> CascadeConfig:
        (tmp_path / "clicks").mkdir(exist_ok=True)
        good = [f"u{n % 7},i{n % 11},{n},{n % 5}" for n in range(60)]
        (tmp_path / "clicks" / "table.csv").write_text("\n".join(["who,what,when,stars", *good, *rows]) + "\n")
        keys = {
            "data.adapter": "tables",
            "data.tables.interactions.path": str(tmp_path / "clicks" / "table.csv"),
            "data.tables.interactions.user_id": "who",
            "data.tables.interactions.item_id": "what",
            "data.tables.interactions.timestamp": "when",
            **{name.replace("__", "."): value for name, value in more.items()},
        }
        return load_config(None, [word for key, value in keys.items() for word in (f"--{key}", value)])

    return make


BAD_ROWS = ("u1,i1", "u1,,5,1", "u1,i1,never,1")


def test_too_many_unreadable_rows_stop_the_run_and_are_written_where_the_message_says(own_logs, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(LogError) as raised:
        said(own_logs(*BAD_ROWS), out)
    message, file = str(raised.value), tmp_path / "clicks" / "table.csv"
    for words in (
        f"{file}: 3 of 63 rows of interactions cannot be read, more than the allowed share 0.01",
        "First: line 62: 'u1,i1' (4 columns expected, 2 found)",
        f"Every such row stands in {out / QUARANTINE_FILE}",
    ):
        assert words in message, message
    quarantine = pq.read_table(out / QUARANTINE_FILE).to_pylist()
    assert [row["line"] for row in quarantine] == [62, 63, 64]
    assert [row["text"] for row in quarantine] == list(BAD_ROWS)
    assert all(row["file"] == str(file) and row["reason"] for row in quarantine)
    assert sorted(path.name for path in out.iterdir()) == [CONFIG_FILE, QUARANTINE_FILE], "no stage began"


def test_a_run_that_accepts_the_unreadable_rows_keeps_them_in_its_artifact(own_logs, tmp_path):
    out = tmp_path / "run"
    with pytest.raises(LogError):
        said(own_logs(*BAD_ROWS), out)
    said(own_logs(*BAD_ROWS, data__max_quarantined_share="0.1"), out, "etl")
    assert not (out / QUARANTINE_FILE).exists()
    assert len(pq.read_table(out / "etl" / "quarantine.parquet")) == 3


def test_every_row_read_is_used_dropped_or_quarantined(own_logs, tmp_path):
    more = {"data__tables__interactions__value": "stars", "data__tables__interactions__min_value": "2"}
    config = own_logs(*BAD_ROWS, data__max_quarantined_share="0.1", **more)
    metrics = run_stages(config, tmp_path / "run", "etl", lambda line: None)["etl"].metrics
    quarantine = pq.read_table(tmp_path / "run" / "etl" / "quarantine.parquet")
    num_bad = pc.sum(pc.equal(quarantine["table"], "interactions")).as_py()
    used, dropped = sum(metrics["num_interactions"].values()), sum(metrics["rows_dropped"].values())
    assert metrics["rows_read"]["interactions"] == 63 == used + dropped + num_bad
    assert metrics["rows_quarantined"] == num_bad == 3 and dropped == 24


@pytest.mark.parametrize(
    ("key", "value", "error", "words"),
    [
        ("data__tables__interactions__user_id", "nobody", LogError, "nobody"),
        ("data__tables__interactions__path", "nowhere.csv", LogError, "there is no such file"),
        ("etl__split__test_share", "0.001", SplitError, "the time split gives"),
    ],
)
def test_a_log_that_cannot_be_used_stops_the_run_before_anything_is_trained(
    key, value, error, words, own_logs, tmp_path
):
    more = {"data__tables__interactions__timestamp": "stars"} if error is SplitError else {}
    with pytest.raises(error, match=words):
        said(own_logs(**{**more, key: value}), tmp_path / "run")
    assert not [path for path in (tmp_path / "run").glob("*") if path.is_dir()]


def test_a_changed_log_makes_the_features_again(own_logs, tmp_path):
    out = tmp_path / "run"
    assert said(own_logs(), out, "etl") == ran("etl")
    assert said(own_logs(), out, "etl") == skipped("etl")
    assert said(own_logs("u1,i1,61,1"), out, "etl") == ran("etl")


def test_files_of_equal_name_in_different_folders_are_told_apart(own_logs, tmp_path):
    (tmp_path / "people").mkdir()
    people = tmp_path / "people" / "table.csv"
    more = {"data__tables__users__path": str(people), "data__tables__users__user_id": "who"}
    people.write_text("who\nu1\n")
    assert said(own_logs(**more), tmp_path / "run", "etl") == ran("etl")
    assert said(own_logs("u1,i1,61,1", **more), tmp_path / "run", "etl") == ran("etl")
    people.write_text("who\nu1\nu2\n")
    assert said(own_logs("u1,i1,61,1", **more), tmp_path / "run", "etl") == ran("etl")
