"""Cached slates: what is written is what is read, by another catalogue too, and nothing forbidden comes out."""

import os
import sqlite3
import time

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ensemble.cache_config import CacheConfig
from ensemble.config import ServingConfig
from ensemble.known_slates import KnownSlates
from ensemble.last_resort import LastResort
from ensemble.recent_users import RecentUsers
from ensemble.request import Request
from ensemble.slate_cache import SlateCache, SlateCacheError, write_slates

NUM_ITEMS = 300
ITEM_IDS = [f"item-{number}" for number in range(NUM_ITEMS)]
SLATES = {
    "ann": (np.array([7, 3, 250, 9]), np.array([1, 2])),
    "bob": (np.array([5]), np.array([], int)),
    "Zoë \U0001f600": (np.arange(100), np.array([299])),
}


def rows_of(ids: np.ndarray) -> np.ndarray:
    """A catalogue whose row r holds the item of number NUM_ITEMS - 1 - r, and which lacks item-250."""
    rows = [-1 if item_id == "item-250" else NUM_ITEMS - 1 - int(item_id[5:]) for item_id in ids]
    return np.array(rows)


def written(path, slates=SLATES, **about):
    users = [(user, *arrays) for user, arrays in slates.items()]
    assert write_slates(path, {"made_at": time.time()} | about, ITEM_IDS, users) == len(slates)
    return path


@pytest.fixture
def items(tmp_path):
    """A catalogue: item 0 was never had, the last one most often."""
    numbers = np.arange(NUM_ITEMS)
    table = {"raw_id": ITEM_IDS, "num_recent_events": numbers, "num_events": numbers}
    pq.write_table(pa.table(table), tmp_path / "items.parquet")
    pq.write_table(pa.table({"item_id": ITEM_IDS}), tmp_path / "item_attributes.parquet")
    return tmp_path


def last_resort(items, file, **config):
    return LastResort.open(items, ServingConfig(cache=CacheConfig(file=str(file), **config)))


def test_what_is_written_is_read_in_the_readers_own_rows(tmp_path):
    cache = SlateCache(written(tmp_path / "slates.db", k=4), rows_of)
    assert cache.about["k"] == 4 and cache.age_seconds < 60
    for user, (slate, seen) in SLATES.items():
        found = cache.slate_of(user)
        assert found is not None
        assert found.row_n.tolist() == [NUM_ITEMS - 1 - number for number in slate if number != 250]
        assert found.seen_row.tolist() == [NUM_ITEMS - 1 - number for number in seen]
    assert cache.slate_of("nobody") is None and cache.slate_of("'; DROP TABLE slates; --") is None


@pytest.mark.parametrize("damage", ["garbage", "truncated", "empty", "format", "no table"])
def test_a_damaged_file_says_so(tmp_path, damage):
    path = written(tmp_path / "slates.db")
    if damage in ("garbage", "truncated", "empty"):
        whole = path.read_bytes()
        path.write_bytes({"garbage": b"garbage" * 1000, "truncated": whole[: len(whole) // 2], "empty": b""}[damage])
    else:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE about SET value = '99'" if damage == "format" else "DROP TABLE about")
        connection.close()

    def read_all():
        cache = SlateCache(path, rows_of)
        for user in SLATES:
            cache.slate_of(user)

    with pytest.raises(SlateCacheError, match="cascade cache build"):
        read_all()


def test_a_file_that_appears_is_replaced_and_goes_is_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr("ensemble.known_slates._LOOK_SECONDS", 0.0)
    path = tmp_path / "slates.db"
    slates = KnownSlates(CacheConfig(file=str(path)), lambda ids: np.arange(len(ids)))
    assert not slates.has_file() and not len(slates.of("ann").row_n)
    written(path)
    assert slates.of("ann").row_n.tolist() == [7, 3, 250, 9]
    written(tmp_path / "new", {"ann": (np.array([8]), np.array([], int))})
    os.replace(tmp_path / "new", path)
    assert slates.of("ann").row_n.tolist() == [8]
    path.write_bytes(b"garbage")
    assert not len(slates.of("ann").row_n)
    path.unlink()
    assert not slates.has_file()


def test_slates_that_are_too_old_are_not_given_out(tmp_path):
    path = written(tmp_path / "slates.db", made_at=time.time() - 3 * 3600)
    rows = [
        KnownSlates(CacheConfig(file=str(path), max_age_hours=hours), lambda ids: np.arange(len(ids))).of("bob").row_n
        for hours in (2.9, 3.1)
    ]
    assert [row.tolist() for row in rows] == [[], [5]]


def test_a_step_of_the_wall_clock_ages_nothing_that_is_open(tmp_path, monkeypatch):
    slates = KnownSlates(CacheConfig(file=str(written(tmp_path / "slates.db"))), lambda ids: np.arange(len(ids)))
    monkeypatch.setattr(time, "time", lambda: 4e9)
    assert slates.of("bob").row_n.tolist() == [5]


def test_what_was_ranked_a_moment_ago_goes_before_the_file(tmp_path):
    slates = KnownSlates(CacheConfig(file=str(written(tmp_path / "slates.db"))), lambda ids: np.arange(len(ids)))
    slates.remember(["ann"], np.array([[4, 6, 5, -1]]), np.array([[0.1, 0.3, 0.3, -np.inf]], np.float32))
    assert slates.of("ann").row_n.tolist() == [5, 6, 4]
    assert slates.of("ann").seen_row.tolist() == [1, 2]  # still forbidden
    assert slates.of("bob").row_n.tolist() == [5]


def test_recent_users_are_the_last_ones_and_not_too_old():
    now = [0.0]
    recent: RecentUsers[int] = RecentUsers(3, 10.0, clock=lambda: now[0])
    recent.remember(["a", "b"], [1, 2])
    now[0] = 5.0
    recent.remember(["c", "a", "d"], [3, 4, 5])
    assert [recent.recall(user) for user in "abcd"] == [4, None, 3, 5] and len(recent) == 3
    now[0] = 15.5
    assert recent.recall("a") is None
    nobody: RecentUsers[int] = RecentUsers(0, 10.0)
    nobody.remember(["a"], [1])
    assert nobody.recall("a") is None and not len(nobody)


def test_the_last_resort_serves_the_slate_then_what_is_popular(tmp_path, items):
    resort = last_resort(items, written(tmp_path / "slates.db"))
    reply = resort.recommend(Request.of(["ann", "stranger", "bob"], k=[6, 3, 1], with_candidates=True))
    assert reply.item_ids[0].tolist() == ["item-7", "item-3", "item-250", "item-9", "item-299", "item-298"]
    assert reply.item_ids[1].tolist() == ["item-299", "item-298", "item-297", "", "", ""]
    assert reply.item_ids[2].tolist() == ["item-5", *[""] * 5]
    assert reply.source.tolist() == ["cached", "degraded", "cached"]
    assert (reply.propensities == (reply.item_ids != "")).all()
    assert (np.diff(reply.scores[0]) < 0).all() and np.isneginf(reply.scores[1, 3:]).all()
    assert (reply.candidate_ids == reply.item_ids).all()


def test_served_alone_a_user_without_a_slate_is_unknown_while_there_are_slates(tmp_path, items):
    request = Request.of(["ann", "stranger"], k=2)
    alone = last_resort(items, written(tmp_path / "slates.db"), mode="only")
    assert alone.recommend(request).source.tolist() == ["cached", "fallback"]
    without_file = last_resort(items, tmp_path / "none.db", mode="only")
    assert without_file.recommend(request).source.tolist() == ["degraded", "degraded"]
    assert last_resort(items, tmp_path / "slates.db", mode="off").recommend(request).source.tolist() == ["degraded"] * 2


ids = st.lists(st.sampled_from([*ITEM_IDS, "unknown"]), max_size=NUM_ITEMS)


@settings(max_examples=80, deadline=None)
@given(
    user=st.sampled_from([*SLATES, "stranger"]),
    k=st.sampled_from([1, 5, 120, 400]),
    exclude=ids,
    allow=st.none() | ids,
)
def test_the_last_resort_gives_k_allowed_items_and_never_a_forbidden_one(tmp_path_factory, user, k, exclude, allow):
    folder = tmp_path_factory.mktemp("cache")
    numbers = np.arange(NUM_ITEMS)
    table = {"raw_id": ITEM_IDS, "num_recent_events": numbers * 0, "num_events": numbers % 7}
    pq.write_table(pa.table(table), folder / "items.parquet")
    pq.write_table(pa.table({"item_id": ITEM_IDS}), folder / "item_attributes.parquet")
    resort = last_resort(folder, written(folder / "slates.db"))
    reply = resort.recommend(Request.of([user], k, exclude=[exclude], allow=None if allow is None else [allow]))
    slate = [item for item in reply.item_ids[0] if item]
    seen = {ITEM_IDS[number] for number in SLATES[user][1]} if user in SLATES else set()
    allowed = set(allow if allow else ITEM_IDS) & set(ITEM_IDS) - set(exclude) - seen
    assert set(slate) <= allowed and len(set(slate)) == len(slate) == min(k, len(allowed))
    assert (np.diff(reply.scores[0][: len(slate)]) <= 0).all()
