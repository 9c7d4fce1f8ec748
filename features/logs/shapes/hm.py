"""Shape `hm`: the three files of the H&M competition for a made shop, day by day, in memory that does not grow with the
rows.

Articles have the demand of the `synthetic` world (base popularity, rise and fade since the launch, season) and belong
to clusters: a section that the columns show, and a style that they do not. A customer likes a few clusters. A purchase
is the article bought last (again), one of the cluster bought last, one of a liked cluster, or any, by demand; and
who was in the shop this week comes again more often. So history, recency and counts as of a time mean something.
"""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator
from datetime import date, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.logs.fashion import GROUP_AGE
from features.logs.shapes.articles import ARTICLE_SCHEMA, article_table
from features.logs.shapes.customers import CUSTOMER_SCHEMA, NUM_TASTES, Customers
from features.logs.shapes.table_file import TableFile
from features.logs.synthetic import SyntheticConfig, make_world

# U customers  I articles  K clusters  B baskets of a day  N purchases of a day
FULL_ROWS, FULL_USERS, FULL_ITEMS = 31_788_324, 1_371_980, 105_542
"""Sizes of the competition's files."""
FIRST_DAY, NUM_DAYS = date(2018, 9, 20), 734
POPULARITY_SCALE = 1.3
NUM_STYLES = 4
MEAN_BASKET, MAX_BASKET = 3.2, 20
NEWCOMER_SHARE = 0.7
"""Largest share of a day's baskets that are the first ones of customers who join on that day."""
RETURN_SHARE, RETURN_DAYS = 0.3, 7
"""Share of the baskets whose customer is one of those who bought in the last days."""
AGAIN, SAME_CLUSTER, LIKED = 0.06, 0.22, 0.75
"""A purchase whose draw is below AGAIN is the article bought last; below SAME_CLUSTER, one of its cluster; below LIKED,
one of a cluster that the customer likes; else any."""
TASTE_BELOW = (0.45, 0.72, 0.89)
"""A draw below the first takes the customer's first taste, and so on."""
PRICE_LEVEL = 0.68
"""Prices beside those of the `synthetic` world."""
PRICE_POINTS = np.array([*range(2, 11), 13, 15, 18, 20, 25, 30, 35, 40, 50, 60, 80, 100, 130, 180, 250]) * 100 - 1
"""Full prices in cents."""
PRICE_UNIT = 59_000
"""Cents that the price 1.0 stands for."""
MAX_CENTS = PRICE_UNIT - 1
TEXT_SCHEMA = pa.schema(
    [
        *(("t_dat", pa.string()), ("customer_id", pa.string()), ("article_id", pa.string())),
        *(("price", pa.string()), ("sales_channel_id", pa.int8())),
    ]
)
PARQUET_SCHEMA = TEXT_SCHEMA.set(0, pa.field("t_dat", pa.date32())).set(3, pa.field("price", pa.float64()))


class HmShop:
    """A made shop: articles, customers, and the purchases of each day, which must be asked for in order."""

    def __init__(self, num_rows: int, num_users: int, num_items: int, seed: int) -> None:
        self.num_rows, self.seed = num_rows, seed
        world = make_world(SyntheticConfig(num_users=10, num_items=num_items, num_days=NUM_DAYS, seed=seed))
        day_of_year = FIRST_DAY.timetuple().tm_yday
        self.world = dataclasses.replace(
            world, peak_day=world.peak_day - day_of_year, log_popularity=POPULARITY_SCALE * world.log_popularity
        )
        self.articles = article_table(world.items, self._rng(0))
        middles = np.sqrt(PRICE_POINTS[1:] * PRICE_POINTS[:-1])
        self.base_cents = PRICE_POINTS[np.searchsorted(middles, 100 * PRICE_LEVEL * world.items["price"].to_numpy())]
        self.cluster, cluster_of = self._clusters()
        self.by_cluster = np.argsort(self.cluster, kind="stable")
        self.cluster_end = np.cumsum(np.bincount(self.cluster))
        self.customers = Customers(num_users, NUM_DAYS, cluster_of, seed)
        self.by_join_day = np.argsort(self.customers.join_day, kind="stable")
        self.joined = np.searchsorted(self.customers.join_day[self.by_join_day], np.arange(NUM_DAYS), side="right")
        self.visits = np.cumsum(self.customers.activity[self.by_join_day], dtype=np.float64)
        self.last_item = np.full(num_users, -1, np.int32)
        self.recent: deque[np.ndarray] = deque(maxlen=RETURN_DAYS)
        self.first_row = self._first_rows()

    def purchases(self, day: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Customers, articles (their row numbers), prices in cents and sales channels of a day, sorted by customer."""
        num = int(self.first_row[day + 1] - self.first_row[day])
        rng = self._rng(1, day)
        size_B = np.minimum(rng.geometric(1 / MEAN_BASKET, num), MAX_BASKET)
        ends_B = np.minimum(np.cumsum(size_B), num)
        size_B = np.diff(ends_B, prepend=0)
        size_B = size_B[size_B > 0]
        user_B = self._visitors(day, len(size_B), rng)
        channel_B = np.where(rng.random(len(size_B)) < self.customers.online[user_B], 2, 1).astype(np.int8)
        user_N, channel_N = np.repeat(user_B, size_B), np.repeat(channel_B, size_B)
        item_N = self._items(day, user_N, rng)
        cents_N = self._cents(day, item_N, rng)
        self.last_item[user_N] = item_N
        self.recent.append(user_B)
        order = np.argsort(user_N, kind="stable")
        return user_N[order], item_N[order], cents_N[order], channel_N[order]

    def _rng(self, *key: int) -> np.random.Generator:
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(3, *key)))

    def _clusters(self) -> tuple[np.ndarray, list[np.ndarray]]:
        """[I] cluster of each article, and the clusters of each index group. A product's articles share a style."""
        sections, section_I = np.unique(self.articles["section_name"].to_numpy(), return_inverse=True)
        styles = int(np.clip(len(section_I) // (40 * len(sections)), 1, NUM_STYLES))
        _, product_I = np.unique(self.articles["product_code"].to_numpy(), return_inverse=True)
        style_I = self._rng(2).integers(0, styles, product_I.max() + 1)[product_I]
        used, cluster_I = np.unique(section_I * styles + style_I, return_inverse=True)
        group_I = self.articles["index_group_name"].to_numpy()
        cluster_of = [np.unique(cluster_I[group_I == group]) for group in GROUP_AGE]
        every = np.arange(len(used))
        return cluster_I, [clusters if len(clusters) else every for clusters in cluster_of]

    def _first_rows(self) -> np.ndarray:
        """[NUM_DAYS + 1] number of the first row of each day; more are sold in summer, and some days are busy."""
        day = np.arange(NUM_DAYS)
        weight = 1 + 0.25 * np.cos(2 * np.pi * (day + FIRST_DAY.timetuple().tm_yday - 170) / 365)
        share = np.cumsum(weight * np.exp(self._rng(4).normal(0, 0.25, NUM_DAYS)))
        return np.concatenate([[0], np.round(share / share[-1] * self.num_rows)]).astype(np.int64)

    def _visitors(self, day: int, num: int, rng: np.random.Generator) -> np.ndarray:
        """Customers of a day's baskets: those who join on it, those who were here in the last days, and others."""
        joined = max(int(self.joined[day]), 1)
        new = self.by_join_day[self.joined[day - 1] if day else 0 : joined]
        new = rng.permutation(new[self.customers.activity[new] > 0])[: int(NEWCOMER_SHARE * num)]
        place_B = np.searchsorted(self.visits[:joined], rng.random(num) * self.visits[joined - 1], side="right")
        user_B = self.by_join_day[np.minimum(place_B, joined - 1)]
        returns_B, place_B = rng.random(num) < RETURN_SHARE, rng.random(num)
        recent = np.concatenate([*self.recent, np.zeros(0, np.int64)])
        if len(recent):
            user_B = np.where(returns_B, recent[(place_B * len(recent)).astype(np.int64)], user_B)
        user_B[: len(new)] = new
        return user_B

    def _items(self, day: int, user_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """By demand, from the range of `by_cluster` in which the cluster of the purchase lies; else from all of it."""
        demand = np.concatenate([[0.0], np.cumsum(np.exp(self.world.log_demand(day))[self.by_cluster])])
        draw_N, taste_N, place_N = rng.random((3, len(user_N)))
        last_N = self.last_item[user_N]
        has_last_N = last_N >= 0
        taste_N = np.searchsorted(TASTE_BELOW, taste_N, side="right").clip(max=NUM_TASTES - 1)
        liked_N = self.customers.tastes[user_N, taste_N]
        cluster_N = np.where((draw_N < SAME_CLUSTER) & has_last_N, self.cluster[last_N], liked_N)
        end_N = self.cluster_end[cluster_N]
        begin_N = np.where(cluster_N > 0, self.cluster_end[cluster_N - 1], 0)
        any_N = (draw_N >= LIKED) | (demand[end_N] <= demand[begin_N])  # nothing of the cluster is launched yet
        begin_N, end_N = np.where(any_N, 0, begin_N), np.where(any_N, len(self.by_cluster), end_N)
        target_N = demand[begin_N] + place_N * (demand[end_N] - demand[begin_N])
        found_N = np.searchsorted(demand, target_N, side="right") - 1
        item_N = self.by_cluster[np.clip(found_N, begin_N, end_N - 1)]
        return np.where((draw_N < AGAIN) & has_last_N, last_N, item_N).astype(np.int32)

    def _cents(self, day: int, item_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """Reduced when the article is old, and for some customers on some days."""
        ages = (day - self.world.launch_day[item_N]) / self.world.half_life[item_N]
        factor_N = np.select([ages > 2.5, ages > 1.5], [0.5, 0.7], 1.0)
        reduced_N = np.maximum(np.round(self.base_cents[item_N] * factor_N / 100) * 100 - 1, 99)
        cents_N = np.where(factor_N < 1, reduced_N, self.base_cents[item_N])
        offer_N = np.select([rng.random(len(item_N)) < 0.12, rng.random(len(item_N)) < 0.05], [0.9, 0.75], 1.0)
        return np.clip(np.floor(cents_N * offer_N), 29, MAX_CENTS).astype(np.int64)


def price_texts(max_cents: int) -> list[str]:
    """For each number of cents the price as the competition writes it: cut, not rounded, after 16 decimals."""
    return [f"0.{cents * 10**16 // PRICE_UNIT:016d}".rstrip("0") for cents in range(max_cents + 1)]


def write_hm(
    folder: Path, num_rows: int, num_users: int, num_items: int, file_format: str, seed: int
) -> Iterator[tuple[str, int]]:
    """Write articles, customers and transactions_train into a folder that exists.

    Args:
        file_format: extension of the files: "csv", "csv.gz" or "parquet".
    Yields: the file's name and its rows, after each file.
    """
    shop = HmShop(num_rows, num_users, num_items, seed)
    with TableFile(folder / f"articles.{file_format}", ARTICLE_SCHEMA) as file:
        file.write(shop.articles)
    yield file.path.name, file.num_rows
    with TableFile(folder / f"customers.{file_format}", CUSTOMER_SCHEMA) as file:
        for table in shop.customers.tables():
            file.write(table)
    yield file.path.name, file.num_rows
    schema = PARQUET_SCHEMA if file_format == "parquet" else TEXT_SCHEMA
    with TableFile(folder / f"transactions_train.{file_format}", schema) as file:
        for table in _transactions(shop, schema):
            file.write(table)
    yield file.path.name, file.num_rows


def _transactions(shop: HmShop, schema: pa.Schema) -> Iterator[pa.Table]:
    texts = price_texts(MAX_CENTS)
    prices = pa.array(texts) if schema.field("price").type == pa.string() else pa.array([float(text) for text in texts])
    article_ids = shop.articles["article_id"].combine_chunks()
    for day in range(NUM_DAYS):
        user_N, item_N, cents_N, channel_N = shop.purchases(day)
        when = FIRST_DAY + timedelta(days=day)
        dates = pa.repeat(
            pa.scalar(when.isoformat() if schema.field("t_dat").type == pa.string() else when), len(user_N)
        )
        columns = [
            dates,
            shop.customers.ids(user_N),
            article_ids.take(pa.array(item_N)),
            prices.take(pa.array(cents_N)),
        ]
        yield pa.Table.from_arrays([*columns, pa.array(channel_N)], schema=schema)
