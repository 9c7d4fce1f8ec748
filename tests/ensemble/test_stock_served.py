"""A stock table that changes while Triton serves: what is sold out goes, k items stay, and damage changes nothing."""

import json
import os
import time
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow.parquet as pq
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ensemble.client import RecommendClient
from ensemble.config import ServingConfig
from ensemble.filter_config import FilterConfig, StockConfig
from ensemble.rollout import prepared_repository
from ensemble.server import TritonServer
from ensemble.triton_config import MODEL_NAME

pytestmark = pytest.mark.triton

POLL_SECONDS = 0.5
PATIENCE_SECONDS = 10
"""For reading the table and for what else the machine does."""
K = 10


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("serve")


@pytest.fixture(scope="module")
def table(folder):
    return folder / "stock.csv"


@pytest.fixture(scope="module")
def server(small_run, folder, table):
    put(table, "item_id,available\n")
    stock = StockConfig(file=str(table), poll_seconds=POLL_SECONDS)
    config = ServingConfig(http_port=0, grpc_port=0, metrics_port=0, filters=FilterConfig(stock=stock))
    repository = prepared_repository(small_run, folder, config)
    with TritonServer(repository.folder, folder, config) as server:
        yield server


@pytest.fixture(scope="module")
def users(small_run):
    known = pq.read_table(small_run / "etl/users.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    return [*known[:30], "stranger"]


def put(table, text):
    """In its place as a whole."""
    table.with_suffix(".new").write_text(text)
    os.replace(table.with_suffix(".new"), table)


def sold_out(items):
    return "item_id,available\n" + "".join(f"{item},0\n" for item in sorted(items))


def eventually(holds):
    begun = time.monotonic()
    while not holds():
        assert time.monotonic() - begun < POLL_SECONDS + PATIENCE_SECONDS
        time.sleep(0.05)


def num_reads(server, outcome):
    """Of the model that serves; the one that stands in for it reads the table too."""
    text = urllib.request.urlopen(server.metrics_url).read().decode()
    return sum(
        sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name == "cascade_stock_reads_total"
        and (sample.labels["model"], sample.labels["outcome"]) == (MODEL_NAME, outcome)
    )


def num_refusals_logged(folder):
    lines = [json.loads(line) for line in (folder / "cascade.jsonl").read_text().splitlines()]
    refusals = [line for line in lines if "the stock table is not used, the last good one stays" in line["message"]]
    return sum(line["model"] == MODEL_NAME for line in refusals)


def slates(client, users):
    """k items of everybody."""
    ids_Bk = client.recommend(users, k=K).item_ids
    assert ids_Bk.shape == (len(users), K) and (ids_Bk != "").all()
    assert all(len(set(row)) == K for row in ids_Bk.tolist())
    return ids_Bk


def test_what_is_sold_out_goes_within_the_time_that_is_documented_and_never_comes_back(server, client, table, users):
    before = slates(client, users)
    gone = set(before[0].tolist())

    def ask_until(end):
        with RecommendClient(server.grpc_url, timeout_seconds=60) as own:
            told = []
            while time.monotonic() < end:
                began = time.monotonic()
                told.append((began, time.monotonic(), not gone.isdisjoint(slates(own, users).ravel().tolist())))
            return told

    with ThreadPoolExecutor(3) as pool:
        asking = [pool.submit(ask_until, time.monotonic() + 4 * POLL_SECONDS + 2) for _ in range(3)]
        time.sleep(POLL_SECONDS)
        put(table, sold_out(gone))
        changed = time.monotonic()
        told = [one for future in asking for one in future.result()]
    last_with, first_without = max(t[0] for t in told if t[2]), min(t[1] for t in told if not t[2])
    assert first_without > changed and last_with < first_without, "one state after the other, for all callers"
    assert last_with - changed < POLL_SECONDS + PATIENCE_SECONDS
    eventually(lambda: num_reads(server, "used") == 1)
    put(table, "item_id,available\n")
    eventually(lambda: np.array_equal(slates(client, users), before))


@pytest.mark.parametrize("damage", ["item_id,available\n0100000001,perhaps\n", "", '"', "item_id\n1\n", None])
def test_damage_leaves_the_last_good_table_and_is_counted_and_logged(server, client, folder, table, users, damage):
    before = slates(client, users)
    gone = set(before[:, 0].tolist())
    put(table, sold_out(gone))
    eventually(lambda: gone.isdisjoint(slates(client, users).ravel().tolist()))
    without, refused, logged = slates(client, users), num_reads(server, "refused"), num_refusals_logged(folder)
    if damage is None:
        table.unlink()
    else:
        put(table, damage)
    eventually(lambda: num_reads(server, "refused") == refused + 1 and num_refusals_logged(folder) == logged + 1)
    np.testing.assert_array_equal(slates(client, users), without)
    put(table, "item_id,available\n")
    eventually(lambda: np.array_equal(slates(client, users), before))
