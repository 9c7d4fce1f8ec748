"""Whole runs on logs of the published forms: H&M's to a slate, Criteo's to a measured ranker."""

import json
from pathlib import Path

import pytest

from features.artifact import open_artifact
from pipelines.__main__ import main
from pipelines.synth import synth

QUICK = ("--retrieval.max-epochs", "1", "--ranking.max-epochs", "1", "--retrieval.num-proposals", "20")


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_hm_goes_from_the_files_to_a_slate(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    synth("hm", tmp_path / "hm", 3_000, 200, 150, "csv.gz", say=lambda line: None)
    data = ("--data.adapter", "hm", "--data.hm.path", str(tmp_path / "hm"), "--etl.drop-seen", "false")
    assert main(["run", "--out", "run", *data, *QUICK]) == 0
    etl, ranking = (open_artifact(tmp_path / "run" / name, name) for name in ("etl", "ranking"))
    assert ranking.metrics["vocabulary"] == etl.metrics["vocabulary"]
    user = json.loads(etl.file("profile.json").read_text())["tables"]["interactions"]
    assert user["rows"] == 3_000
    capsys.readouterr()
    (customer,) = [line for line in _first_customer(tmp_path)]
    assert main(["recommend", "--out", "run", "--users", customer, "--local", "--json", "--k", "5"]) == 0
    slate = json.loads(capsys.readouterr().out)
    assert len(json.dumps(slate)) and customer in json.dumps(slate)
    assert main(["profile", "--out", "run"]) == 0
    assert "interactions: 3,000 rows" in capsys.readouterr().out
    assert (tmp_path / "run" / "profile.html").read_text().startswith("<!")


def _first_customer(folder: Path) -> list[str]:
    import pyarrow.csv

    return pyarrow.csv.read_csv(folder / "hm" / "transactions_train.csv.gz")["customer_id"][:1].to_pylist()


def test_criteo_goes_from_the_files_to_a_measured_ranker(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    synth("criteo", tmp_path / "criteo", 6_000, file_format="tsv", say=lambda line: None)
    data = ("--data.adapter", "criteo", "--data.criteo.train", str(tmp_path / "criteo"), "--data.criteo.split", "days")
    assert main(["run", "--out", "run", *data, "--ranking.clicks.max-epochs", "1"]) == 0
    said = capsys.readouterr().out
    for stage in ("retrieval", "index", "export"):
        assert f"{stage:<10} does not apply" in said
    etl = open_artifact(tmp_path / "run" / "etl", "etl")
    assert sum(etl.metrics["num_impressions"].values()) == 6_000
    assert main(["retrieval", "--out", "run"]) == 1 and "does not apply" in capsys.readouterr().err
    assert main(["serve", "--out", "run"]) == 1 and "does not apply" in capsys.readouterr().err
    assert main(["recommend", "--out", "run", "--users", "a", "--local"]) == 1
    assert "does not apply" in capsys.readouterr().err
    assert main(["evaluate", "--out", "run", "--evaluation.num-bootstrap", "50"]) == 0
    assert "logistic regression" in capsys.readouterr().out
    assert (tmp_path / "run" / "evaluation.json").is_file()


def test_criteo_takes_a_later_day(tmp_path: Path) -> None:
    synth("criteo", tmp_path / "criteo", 6_000, file_format="tsv", say=lambda line: None)
    last = sorted((tmp_path / "criteo").glob("day_*"), key=lambda path: int(path.stem.split("_")[1]))[-1]
    later = tmp_path / "later.tsv"
    later.write_bytes(last.read_bytes())
    last.unlink()
    data = ("--data.adapter", "criteo", "--data.criteo.train", str(tmp_path / "criteo"), "--data.criteo.split", "days")
    frequent = ("--etl.impressions.min-frequency", "2")
    assert main(["etl", "--out", "run", *data, *frequent]) == 0
    first = open_artifact(tmp_path / "run" / "etl", "etl")
    before = _ids(first)
    assert main(["etl", "--out", "run", "--append", str(later)]) == 0
    appended = open_artifact(tmp_path / "run" / "etl", "etl")
    after = _ids(appended)
    for column, ids in before.items():
        assert after[column][: len(ids)] == ids, column
    assert sum(map(len, after.values())) > sum(map(len, before.values()))
    assert sum(appended.metrics["num_impressions"].values()) == 6_000
    at_once = ("--data.append", json.dumps([str(later)]))
    assert main(["etl", "--out", "scratch", *data, *frequent, *at_once]) == 0
    scratch = open_artifact(tmp_path / "scratch" / "etl", "etl")
    assert scratch.metrics["num_impressions"] == appended.metrics["num_impressions"]


def _ids(etl) -> dict[str, list[str]]:
    from features import vocabulary

    return {name: values.to_pylist() for name, values in vocabulary.of_artifact(etl).columns.items()}
