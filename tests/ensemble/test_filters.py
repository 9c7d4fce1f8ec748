"""The filters together: k items come back whenever k allowed ones exist, and nothing else does."""

import json
import os
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ensemble.config import ServingConfig, told_to_models
from ensemble.filter_config import FilterConfig, StockConfig
from ensemble.item_filters import ItemFilters
from ensemble.item_rules import RuleError
from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.stock import StockError

RULES = {
    "none": None,
    "price": "price <= 20",
    "group": 'index_group_name in ["Ladieswear", "Menswear"] and price > 10',
    "nothing": "price < 0",
}


class Shop:
    """A run's users and items, read without the request path."""

    def __init__(self, run):
        self.version = run / "export/repository/cascade/1"
        self.items = pq.read_table(run / "etl/raw/items.parquet").to_pylist()
        self.ids = [item["item_id"] for item in self.items]
        users = pq.read_table(run / "etl/users.parquet", columns=["raw_id", "seen"]).to_pydict()
        self.seen = {
            user: {self.ids[row] for row in rows} for user, rows in zip(users["raw_id"], users["seen"], strict=True)
        }
        self.users = [*list(self.seen)[:40], "stranger"]


@pytest.fixture(scope="module")
def shop(small_run):
    return Shop(small_run)


@pytest.fixture(scope="module")
def pipelines(shop, tmp_path_factory):
    """A pipeline for every rule, with and without a stock table; and what each lets through."""
    half = {item_id: place % 2 == 0 for place, item_id in enumerate(shop.ids)}
    file = tmp_path_factory.mktemp("stock") / "stock.parquet"
    pq.write_table(pa.table({"item_id": list(half), "available": list(half.values())}), file)
    made = {}
    for name, rule in RULES.items():
        for stock in ("", str(file)):
            filters = FilterConfig(rules={name: rule} if rule else {}, stock=StockConfig(file=stock))
            pipeline = Pipeline.load(shop.version, ServingConfig(filters=filters))
            passing = {
                item["item_id"] for item in shop.items if (not stock or half[item["item_id"]]) and holds(name, item)
            }
            made[name, bool(stock)] = pipeline, passing
    return made


def holds(name, item):
    price, group = item["price"], item["index_group_name"]
    return {
        "none": True,
        "price": price is not None and price <= 20,
        "group": group in ("Ladieswear", "Menswear") and price is not None and price > 10,
        "nothing": price is not None and price < 0,
    }[name]


@settings(max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_k_allowed_items_come_back_whenever_so_many_exist(shop, pipelines, data):
    key = data.draw(st.sampled_from(sorted(pipelines)))
    pipeline, passing = pipelines[key]
    asked = data.draw(st.lists(st.sampled_from(shop.users), min_size=1, max_size=6))
    some_items = st.lists(st.sampled_from([*shop.ids, "unknown"]), max_size=90)
    exclude = [data.draw(some_items) for _ in asked]
    allow = [data.draw(st.just([]) | some_items) for _ in asked]
    k = [data.draw(st.sampled_from([1, 5, 20, 79, 1000])) for _ in asked]
    request = Request.of(asked, k, exclude, allow=allow)
    reply = pipeline.recommend(request)
    for row, user in enumerate(asked):
        allowed = passing - set(exclude[row]) - shop.seen.get(user, set())
        if allow[row]:
            allowed &= set(allow[row])
        slate = [item for item in reply.item_ids[row] if item]
        assert len(slate) == len(set(slate)) == min(k[row], len(allowed)) and set(slate) <= allowed
        alone = pipeline.recommend(request.rows(slice(row, row + 1)))
        assert alone.item_ids[0].tolist() == reply.item_ids[row, : k[row]].tolist()
        np.testing.assert_array_equal(alone.scores[0], reply.scores[row, : k[row]])


def test_what_each_filter_removes_is_counted(shop, pipelines):
    pipeline, _ = pipelines["price", True]
    user = next(user for user, seen in shop.seen.items() if len(seen) > 3)
    columns = pipeline.columns(
        Request.of([user, "stranger"], exclude=[[*shop.ids[:3], shop.ids[0], "?"], []], allow=[[], shop.ids[:7]])
    )
    num_items, num_dear = len(shop.ids), sum(not holds("price", item) for item in shop.items)
    assert columns["removed_seen"].tolist() == [len(shop.seen[user]), 0]
    assert columns["removed_exclude"].tolist() == [3, 0]
    assert columns["removed_allow"].tolist() == [0, num_items - 7]
    assert columns["removed_rules"].tolist() == [num_dear] * 2
    assert columns["removed_stock"].tolist() == [num_items // 2] * 2


ATTRIBUTES = pa.table({"item_id": ["0007", "b", "c"], "price": [1.0, None, 3.0]})


def written(path, text):
    path.with_suffix(".new").write_text(text)
    os.replace(path.with_suffix(".new"), path)
    return path


def stock(path, **keys):
    return FilterConfig(stock=StockConfig(file=str(path), poll_seconds=0.02, **keys))


def eventually(told, expected):
    end = time.monotonic() + 10
    while told() != expected and time.monotonic() < end:
        time.sleep(0.01)
    assert told() == expected


def test_a_stock_table_is_read_again_and_a_broken_one_changes_nothing(tmp_path):
    path = written(tmp_path / "stock.csv", "item_id,available\n0007,0\nb,4\nelsewhere,1\n")
    filters = ItemFilters(stock(path), ATTRIBUTES)
    first = filters.now
    assert first.allowed_I.tolist() == [False, True, True] and first.num_out_of_stock == 1
    written(path, "item_id,available\n0007,2\nb,0\nb,0\n")
    eventually(lambda: filters.now.allowed_I.tolist(), [True, False, True])
    assert filters.state(first.number) is first, "a request that began before still sees what held then"
    good = filters.now
    for broken in ("item_id\n0007\n", "item_id,available\n0007,perhaps\n", "x,available\nb,1\n", "", '"'):
        written(path, broken)
        time.sleep(0.1)
        assert filters.now is good
    path.unlink()
    time.sleep(0.1)
    assert filters.now is good
    written(path, "item_id,available\nc,false\nb,true\n")
    eventually(lambda: filters.now.allowed_I.tolist(), [True, True, False])


def test_items_that_the_table_does_not_name_can_be_taken_for_unavailable(tmp_path):
    path = written(tmp_path / "stock.csv", "article,pieces\nb,0\nb,3\n")
    config = stock(path, item_id="article", available="pieces", others_available=False)
    assert ItemFilters(config, ATTRIBUTES).now.allowed_I.tolist() == [False, True, False]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("item_id,pieces\nb,1\n", "has no column 'available' .*it has item_id, pieces"),
        ("item_id,available\nb,perhaps\n", "row 0: must be true or false, or a number of pieces, got 'perhaps'"),
        ("item_id,available\n,1\n", "row 0 has no item id"),
        ("item_id,available\nx,1\n", "none of its 1 item ids is in the catalogue, the first is 'x'"),
    ],
)
def test_a_stock_table_that_cannot_be_used_stops_the_start(tmp_path, text, said):
    with pytest.raises(StockError, match=said):
        ItemFilters(stock(written(tmp_path / "stock.csv", text)), ATTRIBUTES)


def test_a_wrong_rule_stops_the_start_and_is_named():
    with pytest.raises(RuleError, match=r"serving.filters.rules.cheap: .*pric"):
        ItemFilters(FilterConfig(rules={"cheap": "pric < 3"}), ATTRIBUTES)


def test_model_processes_are_told_where_a_relative_stock_file_stands(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    told = {
        file: ServingConfig(filters=FilterConfig(stock=StockConfig(file=file))) for file in ("", "stock.csv", "/a.csv")
    }
    files = {file: json.loads(told_to_models(one))["filters"]["stock"]["file"] for file, one in told.items()}
    assert files == {"": "", "stock.csv": str(tmp_path / "stock.csv"), "/a.csv": "/a.csv"}
