"""A click model is refreshed as far as it goes: appended, started warm, held against the live one; never deployed."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from features.artifact import open_artifact
from features.impressions import test_rows_as_read_by as rows_as_read_by
from pipelines.config import load_saved_config, validated
from pipelines.refresh.record import FILE, RefreshError
from pipelines.refresh.refresh import refresh
from pipelines.stages import CONFIG_FILE, run_stages
from pipelines.synth import synth

QUICK = {
    "ranking": {
        "network": {"embedding_dim": 4, "dlrm": {"bottom_units": [8], "top_units": [16]}},
        "clicks": {"max_epochs": 3, "learning_rate": 0.01, "table_learning_rate": 0.1, "l2": 0.1},
    },
    "evaluation": {"num_bootstrap": 50},
    "etl": {"impressions": {"min_frequency": 1}},
}
LOG = {"label": "clicked", "timestamp": "timestamp", "user_id": "user_id", "item_id": "item_id"} | {
    "continuous": {"position": "position"},
    "categorical": {"section": "section_name", "favourite": "favourite_section"},
}


@pytest.fixture(scope="module")
def clicks(tmp_path_factory) -> tuple[Path, Path]:
    """A run of the first impressions, and the file of those that came later."""
    folder = tmp_path_factory.mktemp("clicks")
    synth("clicks", folder / "made", 6_000, 60, 50, "parquet", 1, lambda line: None)
    log = pq.read_table(folder / "made" / "impressions.parquet").sort_by("timestamp")
    for name, part in (("first", log.slice(0, 5_000)), ("later", log.slice(5_000))):
        pq.write_table(part, folder / f"{name}.parquet")
    impressions = LOG | {"path": str(folder / "first.parquet"), "as_of": ["item_id"], "history": 5}
    config = validated({"data": {"adapter": "impressions", "impressions": impressions}, **QUICK}, "test")
    run_stages(config, folder / "run", say=lambda line: None)
    return folder / "run", folder / "later.parquet"


@pytest.fixture(scope="module")
def refreshed(clicks, tmp_path_factory) -> tuple[Path, list[str]]:
    new, lines = tmp_path_factory.mktemp("refreshed") / "new", []
    limits = ["--refresh.max-quality-loss=0.5", "--refresh.max-miscalibration=5"]
    record = refresh(clicks[0], [str(clicks[1])], new, clicks[0] / "serve", limits, lines.append)
    assert record.state == "passed"
    return new, lines


def test_a_click_model_is_measured_in_pairs_and_nothing_is_deployed(clicks, refreshed):
    new, lines = refreshed
    written = json.loads((new / FILE).read_text())
    assert any("no server here" in line for line in lines) and written["deployed"] is None
    assert written["warm_start"] == {"ranker": "from the ranker of vocabulary 1"}
    guards = {guard["name"]: guard["verdict"] for guard in written["guards"]}
    assert {name: guards[name] for name in ("quality: auc", "quality: log loss", "calibration")} == {
        "quality: auc": "passed", "quality: log loss": "passed", "calibration": "passed"
    }  # fmt: skip
    assert guards["latency"] == guards["coverage"] == "not measured"
    found = written["measurements"]["quality"]["log loss"]
    assert found["difference"]["low"] <= found["difference"]["mean"] <= found["difference"]["high"]
    assert found["difference"]["mean"] == pytest.approx(found["new"] - found["live"])


def test_the_live_model_reads_the_new_rows_through_its_own_features(clicks, refreshed, tmp_path):
    """Rows that both runs have, encoded for the live one, are what it was made from."""
    run, (new, _) = clicks[0], refreshed
    config = load_saved_config(run / CONFIG_FILE)
    columns = config.data.impression_log(config.etl.split).columns
    live = open_artifact(run / "etl", "etl")
    paths = rows_as_read_by(live, live, columns, config.etl.impressions.smoothing, tmp_path / "own")
    own = [pq.read_table(path) for path in live.files("examples/test/")]
    assert [pq.read_table(path).equals(one) for path, one in zip(paths, own, strict=True)] == [True] * len(own)
    etl = open_artifact(new / "etl", "etl")
    rows = [
        pq.read_table(path)
        for path in rows_as_read_by(live, etl, columns, config.etl.impressions.smoothing, tmp_path / "new")
    ]
    known = json.loads(live.file("vocabulary.json").read_text())["num_values"]["item_id"]
    highest = max(int(np.max(table["item_id"].to_numpy())) for table in rows)
    assert highest < known + 3, "what came since is unseen"
    newest = max(int(np.max(pq.read_table(path)["item_id"].to_numpy())) for path in etl.files("examples/test/"))
    assert newest >= highest
    assert sum(map(len, rows)) == etl.metrics["num_impressions"]["test"]


def test_a_click_model_that_is_worse_is_refused(clicks, tmp_path, monkeypatch):
    from pipelines.refresh import compared_clicks as module

    real, calls = module.said_by, []

    def scrambled(model, batches):
        calls.append(model)
        said_N = real(model, batches)
        return np.random.default_rng(0).permutation(said_N) if len(calls) == 1 else said_N  # the new one's

    monkeypatch.setattr(module, "said_by", scrambled)
    run = Path(shutil.copytree(clicks[0], tmp_path / "run"))
    with pytest.raises(RefreshError, match="quality: log loss: failed"):
        refresh(run, [str(clicks[1])], tmp_path / "new", None, ["--refresh.max-miscalibration=5"])
