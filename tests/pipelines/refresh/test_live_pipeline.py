"""The live run is asked as it would answer then: it knows what users did up to the moment, and nothing later."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from ensemble.pipeline import Pipeline
from ensemble.request import Request
from features.artifact import Artifact, open_artifact
from features.online_store import OnlineStore
from features.schema import load_schema
from pipelines.config import load_saved_config
from pipelines.refresh.live_pipeline import forget, live_version
from pipelines.stages import CONFIG_FILE, run_stages


@pytest.fixture(scope="module")
def new_etl(made, tmp_path_factory) -> Artifact:
    run = Path(shutil.copytree(made.run, tmp_path_factory.mktemp("new") / "run"))
    config = load_saved_config(run / CONFIG_FILE, [f'--data.append=["{made.later}"]'])
    run_stages(config, run, "etl", say=lambda line: None)
    return open_artifact(run / "etl", "etl")


@pytest.fixture(scope="module")
def latest(made, tmp_path_factory) -> Path:
    """The live run as it is when it has gone live: it knows its own test period."""
    run = Path(shutil.copytree(made.run, tmp_path_factory.mktemp("latest") / "run"))
    run_stages(load_saved_config(run / CONFIG_FILE, ["--etl.serve-state=latest"]), run, say=lambda line: None)
    return run


def ids(etl: Artifact, entity: str) -> list[str]:
    return pq.read_table(etl.file(f"{entity}s.parquet"))["raw_id"].to_pylist()


@pytest.mark.parametrize("knows_its_test_period", [False, True])
def test_it_knows_what_users_had_before_the_moment_and_nothing_later(
    made, latest, new_etl, tmp_path, knows_its_test_period
):
    run = latest if knows_its_test_period else made.run
    users, items = ids(new_etl, "user"), ids(new_etl, "item")
    known = ids(open_artifact(made.run / "etl", "etl"), "item")
    version = live_version(run, new_etl, np.arange(len(users)), tmp_path)
    events = pq.read_table(new_etl.file("events.parquet"))
    user, item, time = (events[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
    before = time < new_etl.metrics["test_from"]
    folder = version / "ensemble"
    found = OnlineStore(folder / "store", load_schema(folder / "schema.json")).read(users)
    for row in range(len(users)):
        expected = {items[one] for one in item[before & (user == row)]} & set(known)
        assert {known[one] for one in found.seen[row] if one >= 0} == expected
    first = open_artifact(made.run / "etl", "etl").metrics["test_from"]
    assert json.loads((version / "sha256.json").read_text())["as_of"] == first, "sources and index have seen no more"
    forget(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_same_answers_whether_it_has_gone_live_or_not(made, latest, new_etl, tmp_path):
    users = ids(new_etl, "user")
    moment = int(new_etl.metrics["test_from"])
    slates = []
    for number, run in enumerate((made.run, latest)):
        (tmp_path / str(number)).mkdir()
        version = live_version(run, new_etl, np.arange(len(users)), tmp_path / str(number))
        slates.append(Pipeline.load(version).recommend(Request.of(users, timestamp=moment, seed=0)).item_ids)
    np.testing.assert_array_equal(*slates)
