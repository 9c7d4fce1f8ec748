"""Later logs are appended: nothing that has an id loses it, and the features are those of all logs read at once."""

import json
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import pytest

from features.artifact import Artifact, open_artifact
from features.logs import LogError
from features.logs.synthetic import SyntheticConfig, synthetic_logs
from pipelines.__main__ import main
from pipelines.config import load_saved_config
from pipelines.stages import CONFIG_FILE, run_stages

CONFIG = """
[data]
adapter = "tables"
[data.tables.interactions]
path = "{folder}/first/log.csv"
user_id = "user_id"
item_id = "item_id"
timestamp = "timestamp"
price = "price"
categorical = {{ channel = "channel" }}
[data.tables.users]
path = "{folder}/first/users.csv"
user_id = "user_id"
categorical = {{ club = "club_member_status" }}
continuous = {{ age = "age" }}
[data.tables.items]
path = "{folder}/first/items.csv"
item_id = "item_id"
title = "title"
categorical = {{ section = "section_name" }}
text = ["title"]
[etl]
history_length = 5
"""


@pytest.fixture(scope="module")
def world() -> dict[str, pa.Table]:
    logs = synthetic_logs(SyntheticConfig(num_users=600, num_items=200, num_interactions=2_000))
    rng = np.random.default_rng(1)
    num = len(logs.interactions)
    price = pa.array(np.round(rng.lognormal(3, 1, num), 2), mask=rng.random(num) < 0.05)
    log = logs.interactions.append_column("price", price)
    log = log.append_column("channel", pa.array(rng.choice(["web", "shop"], num))).sort_by("timestamp")
    return {"log": log, "users": logs.users, "items": logs.items}


@pytest.fixture
def folder(tmp_path: Path, world: dict[str, pa.Table]) -> Path:
    """The log in three pieces; users and items of the later ones come with them."""
    cuts = [0, 400, 1_200, 2_000]
    known: dict[str, pa.Array] = {name: pa.array([], pa.string()) for name in ("users", "items")}
    for name, (begin, end) in zip(("first", "second", "third"), pairwise(cuts), strict=True):
        (tmp_path / name).mkdir()
        log = world["log"].slice(begin, end - begin)
        pyarrow.csv.write_csv(log, tmp_path / name / "log.csv")
        for table in ("users", "items"):
            ids = f"{table[:-1]}_id"
            here = pc.is_in(world[table][ids], pc.unique(log[ids]))
            new = pc.and_(here, pc.invert(pc.is_in(world[table][ids], known[table])))
            rows = world[table].filter(new)
            known[table] = pa.concat_arrays([known[table], rows[ids].combine_chunks()])
            pyarrow.csv.write_csv(rows.combine_chunks(), tmp_path / name / f"{table}.csv")
    (tmp_path / "cascade.toml").write_text(CONFIG.format(folder=tmp_path))
    return tmp_path


def etl(folder: Path, run: str, *words: str) -> Artifact:
    """A copy of the etl artifact after one command, which the next command leaves alone; `words` may append."""
    out = folder / run
    config = [] if (out / CONFIG_FILE).is_file() else ["--config", str(folder / "cascade.toml")]
    assert main(["etl", *config, "--out", str(out), *words]) == 0
    kept = folder / f"{run}_{len(list(folder.glob('*_*')))}"
    shutil.copytree(out / "etl", kept)
    return open_artifact(kept, "etl")


def ids(artifact: Artifact, entity: str) -> dict[str, int]:
    table = pq.read_table(artifact.file(f"{entity}s.parquet"))
    pairs = zip(table["raw_id"].to_pylist(), table[f"{entity}_id"].to_pylist(), strict=True)
    return {raw: encoded for raw, encoded in pairs if encoded >= 3}


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_two_appends_give_what_reading_all_logs_at_once_gives(folder: Path) -> None:
    first = etl(folder, "run")
    second = etl(folder, "run", "--append", str(folder / "second"))
    third = etl(folder, "run", "--append", str(folder / "third"))
    at_once = json.dumps([str(folder / "second"), str(folder / "third")])
    scratch = etl(folder, "scratch", f"--data.append={at_once}")
    differing = {
        name
        for name, part in third.manifest["parts"].items()
        if not part.get("volatile") and part["sha256"] != scratch.manifest["parts"][name]["sha256"]
    }
    assert not differing
    assert third.content_hash == scratch.content_hash
    for entity in ("user", "item"):
        assert ids(first, entity).items() <= ids(third, entity).items()
    assert len(ids(third, "item")) > len(ids(first, "item"))
    numbers = [artifact.metrics["vocabulary"]["number"] for artifact in (first, second, third)]
    hashes = {artifact.metrics["vocabulary"]["sha256"] for artifact in (first, second, third)}
    assert numbers == [1, 2, 3] and len(hashes) == 3
    assert third.metrics["rows_read"]["interactions"] == 2_000


def test_logs_that_come_late_move_no_id(folder: Path) -> None:
    """What is appended happened before: by first appearance, everybody would get another id."""
    text = (folder / "cascade.toml").read_text()
    (folder / "cascade.toml").write_text(text.replace("/first/", "/third/"))
    first = etl(folder, "run")
    after = etl(folder, "run", "--append", str(folder / "first"))
    for entity in ("user", "item"):
        assert ids(first, entity).items() <= ids(after, entity).items()
    assert after.metrics["num_users"] > first.metrics["num_users"]


def test_an_append_reads_only_the_new_files(folder: Path) -> None:
    before = etl(folder, "run")
    moved = folder / "first" / "log.csv"
    content = moved.read_bytes()
    appended = etl(folder, "run", "--append", str(folder / "second" / "log.csv"))
    assert moved.read_bytes() == content
    assert appended.metrics["rows_read"]["users"] == before.metrics["rows_read"]["users"], (
        "a file has interactions only"
    )
    assert appended.metrics["rows_read"]["interactions"] == 1_200


def test_attributes_of_later_tables_replace_the_earlier_ones(folder: Path) -> None:
    etl(folder, "run")
    users = pyarrow.csv.read_csv(folder / "first" / "users.csv")
    changed = users.slice(0, 1).set_column(users.schema.get_field_index("age"), "age", pa.array([99.0]))
    later = pyarrow.csv.read_csv(folder / "second" / "users.csv")
    pyarrow.csv.write_csv(
        pa.concat_tables([changed, later], promote_options="permissive").combine_chunks(),
        folder / "second" / "users.csv",
    )
    artifact = etl(folder, "run", "--append", str(folder / "second"))
    raw = pq.read_table(artifact.file("raw/users.parquet"))
    row = raw["user_id"].to_pylist().index(str(changed["user_id"][0]))
    assert raw["age"][row].as_py() == 99.0


def test_drift_of_the_later_logs_is_told_column_by_column(folder: Path, capsys: pytest.CaptureFixture) -> None:
    etl(folder, "run")
    text = pyarrow.csv.ConvertOptions(column_types={"item_id": pa.string()})
    log = pyarrow.csv.read_csv(folder / "second" / "log.csv", convert_options=text)
    dear = pc.multiply(log["price"], 1_000.0)
    pyarrow.csv.write_csv(
        log.set_column(log.schema.get_field_index("price"), "price", dear), folder / "second" / "log.csv"
    )
    artifact = etl(folder, "run", "--append", str(folder / "second"))
    found = json.loads(artifact.file("drift.json").read_text())
    assert "price" in {one["column"] for one in found}
    assert "interactions.price" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("path", "message"),
    [("nowhere", "there is no such file or folder"), ("empty", r"no file log\.\* with interactions")],
)
def test_an_append_of_what_is_not_there_is_refused(folder: Path, path: str, message: str) -> None:
    (folder / "empty").mkdir()
    etl(folder, "run")
    config = load_saved_config(folder / "run" / CONFIG_FILE, [f'--data.append=["{folder / path}"]'])
    with pytest.raises(LogError, match=message):
        run_stages(config, folder / "run", "etl", lambda line: None)
    assert (folder / "run" / "etl" / "manifest.json").is_file(), "the features of before are still there"


def test_an_append_that_is_refused_leaves_the_run_as_it_was(folder: Path, capsys: pytest.CaptureFixture) -> None:
    etl(folder, "run")
    kept = (folder / "run" / CONFIG_FILE).read_text()
    (folder / "broken.csv").write_text("a,b\n1,2\n")
    for path in ("broken.csv", "nowhere"):
        assert main(["etl", "--out", str(folder / "run"), "--append", str(folder / path)]) == 1
        assert (folder / "run" / CONFIG_FILE).read_text() == kept
    assert "no column 'user_id'" in capsys.readouterr().err
    assert main(["etl", "--out", str(folder / "run")]) == 0


def test_the_made_world_has_no_later_logs(folder: Path, capsys: pytest.CaptureFixture) -> None:
    data = ("--data.synthetic.num-users", "50", "--data.synthetic.num-interactions", "500")
    assert main(["etl", "--out", "made", *data]) == 0
    assert main(["etl", "--out", "made", "--append", str(folder / "second")]) == 1
    assert "a made world has no later logs" in capsys.readouterr().err


def test_the_same_logs_are_not_appended_twice(folder: Path, capsys: pytest.CaptureFixture) -> None:
    etl(folder, "run")
    etl(folder, "run", "--append", str(folder / "second"))
    assert main(["etl", "--out", str(folder / "run"), "--append", str(folder / "second")]) == 1
    assert "is part of this run already" in capsys.readouterr().err
