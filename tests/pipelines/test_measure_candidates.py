"""Which part of [serving] an evaluation measures: what lasts, and not what can be had today."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import pyarrow.parquet as pq
import pytest

from ensemble.filter_config import FilterConfig
from pipelines import commands, measure, measure_candidates
from pipelines.__main__ import main
from pipelines.config import load_saved_config

RULE = 'index_group_name != "Ladieswear"'


@pytest.fixture
def run(run_served_as, small_run, tmp_path):
    """Served by a rule and with nothing in stock."""
    ids = pq.read_table(small_run / "etl/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    (tmp_path / "stock.csv").write_text("item_id,available\n" + "".join(f"{item_id},0\n" for item_id in ids))
    return run_served_as(filters={"rules": {"group": RULE}, "stock": {"file": str(tmp_path / "stock.csv")}})


def test_candidates_are_measured_by_the_rules_and_without_the_stock(run, small_run, monkeypatch):
    asked = {}
    monkeypatch.setattr(
        measure_candidates,
        "evaluate_candidates",
        lambda etl, propose, *_, propose_cold, **__: asked.update(all=propose, new=propose_cold),
    )
    assert main(["evaluate", "--stage", "candidates", "--run", str(run)]) == 0
    items = pq.read_table(small_run / "etl/raw/items.parquet", columns=["item_id", "index_group_name"]).to_pylist()
    banned = {item["item_id"] for item in items if item["index_group_name"] == "Ladieswear"}
    users = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()[:60]
    for propose in asked.values():
        for name, ids_BK in propose(users).items():
            proposed = set(ids_BK.ravel().tolist()) - {""}
            assert proposed and banned.isdisjoint(proposed), name


@pytest.mark.parametrize(
    ("words", "measured"), [([], {"group": RULE}), (["--serving.filters.rules={}"], {})], ids=["of the run", "given"]
)
def test_slates_are_measured_by_the_rules_and_without_the_stock(run, monkeypatch, words, measured):
    asked = []

    @contextmanager
    def served(out, config):
        asked.append(config.serving)
        yield "127.0.0.1:9"

    monkeypatch.setattr(commands, "served", served)
    monkeypatch.setattr(measure, "measure", lambda *_: None)
    assert main(["evaluate", "--run", str(run), *words]) == 0
    assert asked[0].filters.rules == measured and not asked[0].filters.stock.file


class Answering:
    """A client whose server is there."""

    def __init__(self, url, *_, **__):
        self.url = self.grpc_url = url

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def recommend(self, *_, **__):
        pass


def test_the_server_that_runs_does_only_for_the_configuration_of_the_run(run, monkeypatch):
    (run / "serve").mkdir()
    (run / "serve" / commands.ADDRESSES).write_text('{"grpc": "the one that runs"}')
    monkeypatch.setattr("ensemble.client.RecommendClient", Answering)
    monkeypatch.setattr("ensemble.rollout.prepared_repository", lambda *_: SimpleNamespace(folder="one of its own"))
    monkeypatch.setattr("ensemble.server.TritonServer", Answering)
    config = load_saved_config(run / "config.json")
    with commands.served(run, config) as url:
        assert url == "the one that runs"
    other = replace(config, serving=replace(config.serving, filters=FilterConfig()))
    with commands.served(run, other) as url:
        assert url == "one of its own"
