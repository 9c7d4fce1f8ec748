"""Adapter `synthetic`: a seeded fashion shop with the H&M columns, whose customers have tastes that can be learned.

How the world works:
- A product belongs to a section, has a type and a price, and a hidden style that no column shows; its articles are
  colours of it. An article's taste vector is part visible (section, type, colour, price) and part hidden (style).
- A customer has a visible part (which sections, types, colours, prices; the section follows from age to some degree)
  and a hidden part (a few styles).
- A basket is one visit. The shop shows `DISPLAY` articles, drawn by what sells at that time: base popularity x rise and
  fade since the launch x season. The customer takes those nearest to taste plus the mood of the visit.
- Articles are launched all through the period, so the newest are cold; customers join all through it, some never buy.
"""

from typing import Annotated

import numpy as np
import pyarrow as pa
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from features.logs.contract import FeatureColumns, Logs
from features.logs.fashion import COLOURS, GROUP_AGE, GROUP_SHARE, LOOKS, NAMES, PRODUCT_TYPES, SECTIONS
from features.logs.quarantine import Quarantine

# U users  I items  P products  S sections  B baskets  N interactions  M shown items  D taste  H hidden style
START = 1_704_067_200
"""2024-01-01 00:00 UTC, the first day of the log."""
DAY_SECONDS = 86_400
DISPLAY = 192
"""Articles a customer sees in a visit. More of them, and taste counts more against popularity."""
TOP = 48
"""Of the articles shown, those among which a basket is filled; at least the largest basket."""
CHUNK_BASKETS = 2048
VISIBLE_DIM, STYLE_DIM, NUM_STYLES = 12, 8, 24
TASTE_WEIGHT, MOOD_WEIGHT, SEASON_WEIGHT = 0.55, 0.6, 0.7
MEDIAN_HALF_LIFE_DAYS = 180
REPEAT_SHARE = 0.05
MEAN_BASKET, MAX_BASKET = 3.2, 12
NO_PURCHASE_SHARE = 0.03
COLD_START_SHARE = 0.45
"""Share of the articles launched after the first day."""

USER_FEATURES = FeatureColumns(categorical=("club_member_status", "fashion_news_frequency"), continuous=("age",))
ITEM_FEATURES = FeatureColumns(
    categorical=(
        "product_type_name",
        "product_group_name",
        "colour_group_name",
        "garment_group_name",
        "department_name",
        "index_group_name",
        "section_name",
    ),
    continuous=("price",),
)


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SyntheticConfig:
    """Size of the made world. Same config, same tables."""

    num_users: Annotated[int, Field(ge=10)] = 5000
    """Customers, those who never buy included."""
    num_items: Annotated[int, Field(ge=50)] = 2000
    """Articles, those launched too late to sell included."""
    num_interactions: Annotated[int, Field(ge=100)] = 150_000
    """Purchases, exactly."""
    num_days: Annotated[int, Field(ge=14)] = 365
    """Length of the log in days."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of all chance in the world."""


@dataclass(frozen=True, config=ConfigDict(arbitrary_types_allowed=True))
class World:
    """What the log does not show; tests take it as the oracle. Arrays have one row a customer or article."""

    user_taste: np.ndarray
    """[U, D] float32; its product with an article's taste is the customer's liking for it."""
    item_taste: np.ndarray
    """[I, D] float32."""
    log_popularity: np.ndarray
    launch_day: np.ndarray
    half_life: np.ndarray
    """Days in which the demand for an article halves; infinite for basics."""
    peak_day: np.ndarray
    """Day of the year on which an article sells best; nan: no season."""
    join_day: np.ndarray
    activity: np.ndarray
    """Relative rate of visits; 0: never buys."""
    users: pa.Table
    items: pa.Table

    def log_demand(self, day: int) -> np.ndarray:
        """[I] log of the relative demand for each article on a day, whoever the customer; -inf before its launch."""
        age = day - self.launch_day
        season = np.nan_to_num(SEASON_WEIGHT * np.cos(2 * np.pi * (day - self.peak_day) / 365.0))
        demand = self.log_popularity + season - np.log(2) * np.maximum(age, 0) / self.half_life
        demand += np.log1p(-0.8 * np.exp(-np.maximum(age, 0) / 5.0))
        return np.where(age >= 0, demand, -np.inf)


def synthetic_logs(config: SyntheticConfig) -> Logs:
    """Make the three tables of a world; interactions are sorted by time."""
    world = make_world(config)
    user_N, item_N, timestamp_N = _purchases(config, world)
    interactions = pa.table(
        {
            "user_id": world.users["user_id"].take(pa.array(user_N)).combine_chunks(),
            "item_id": world.items["item_id"].take(pa.array(item_N)).combine_chunks(),
            "timestamp": pa.array(timestamp_N, pa.int64()),
        }
    )
    rows = {"interactions": config.num_interactions, "users": config.num_users, "items": config.num_items}
    quarantine = Quarantine().to_table()
    return Logs(interactions, world.users, world.items, USER_FEATURES, ITEM_FEATURES, quarantine, rows, {})


def make_world(config: SyntheticConfig) -> World:
    """Customers and articles with their tables; independent of num_interactions."""
    seeds = np.random.SeedSequence(config.seed).spawn(3)
    taste = _Taste(np.random.default_rng(seeds[0]))
    items = _items(config, taste, np.random.default_rng(seeds[1]))
    users = _users(config, taste, np.random.default_rng(seeds[2]))
    return World(**items, **users)


class _Taste:
    """Directions in the taste space that sections, types, colours and styles stand for."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.section_names = [(group, section) for group, sections in SECTIONS.items() for section in sections]
        self.groups = list(SECTIONS)
        self.group_S = np.array([self.groups.index(group) for group, _ in self.section_names])
        groups = rng.normal(size=(len(self.groups), VISIBLE_DIM))
        self.section_SD = 1.0 * groups[self.group_S] + 0.6 * rng.normal(size=(len(self.section_names), VISIBLE_DIM))
        self.type_TD = 0.6 * rng.normal(size=(len(PRODUCT_TYPES), VISIBLE_DIM))
        self.colour_CD = 0.35 * rng.normal(size=(len(COLOURS), VISIBLE_DIM))
        self.price_D = 0.4 * rng.normal(size=VISIBLE_DIM)
        self.style_KH = 1.5 * rng.normal(size=(NUM_STYLES, STYLE_DIM))


def _items(config: SyntheticConfig, taste: _Taste, rng: np.random.Generator) -> dict:
    num_items, num_products = config.num_items, max(config.num_items * 5 // 9, 1)
    product_I = np.sort(
        np.concatenate([np.arange(num_products), rng.integers(0, num_products, num_items - num_products)])
    )
    share_G = np.array([GROUP_SHARE[group] for group in taste.groups])
    section_share_S = share_G[taste.group_S] / np.bincount(taste.group_S)[taste.group_S]
    section_I = rng.choice(len(section_share_S), num_products, p=section_share_S / section_share_S.sum())[product_I]
    type_I = rng.choice(len(PRODUCT_TYPES), num_products, p=_zipf(len(PRODUCT_TYPES), 0.5))[product_I]
    style_P = rng.integers(0, NUM_STYLES, num_products)
    style_PH = taste.style_KH[style_P] + 0.4 * rng.normal(size=(num_products, STYLE_DIM))
    colour_I = rng.choice(len(COLOURS), num_items, p=_zipf(len(COLOURS), 0.8))
    median_price = np.array([kind.median_price for kind in PRODUCT_TYPES])
    level_P = rng.normal(0, 0.35, num_products)
    price_I = np.maximum(np.round(median_price[type_I] * np.exp(level_P[product_I])), 2) - 0.01
    visible_ID = taste.section_SD[section_I] + taste.type_TD[type_I] + taste.colour_CD[colour_I]
    visible_ID += np.outer(level_P[product_I] / 0.35, taste.price_D)

    late_P = rng.random(num_products) < COLD_START_SHARE
    launch_P = np.where(late_P, rng.integers(1, config.num_days, num_products), -rng.integers(0, 240, num_products))
    half_life_P = np.where(
        rng.random(num_products) < 0.3, np.inf, MEDIAN_HALF_LIFE_DAYS * np.exp(rng.normal(0, 0.5, num_products))
    )
    peak_T = np.array([np.nan if kind.peak_day is None else kind.peak_day for kind in PRODUCT_TYPES])
    popularity_I = rng.normal(0, 0.9, num_products)[product_I] + rng.normal(0, 0.6, num_items)
    return {
        "item_taste": np.hstack([visible_ID, style_PH[product_I]]).astype(np.float32),
        "log_popularity": popularity_I,
        "launch_day": launch_P[product_I],
        "half_life": half_life_P[product_I],
        "peak_day": peak_T[type_I],
        "items": _item_table(taste, rng, product_I, section_I, type_I, colour_I, price_I),
    }


def _item_table(taste: _Taste, rng: np.random.Generator, product_I, section_I, type_I, colour_I, price_I) -> pa.Table:
    num_products = int(product_I[-1]) + 1
    name_P, look_P = rng.integers(0, len(NAMES), num_products), rng.integers(0, len(LOOKS), num_products)
    variant_I = np.arange(len(product_I)) - np.searchsorted(product_I, product_I) + 1
    kinds = [PRODUCT_TYPES[index] for index in type_I]
    sections = [taste.section_names[index] for index in section_I]
    names = [
        f"{NAMES[name_P[p]]} {LOOKS[look_P[p]]} {kind.name.lower()}" for p, kind in zip(product_I, kinds, strict=True)
    ]
    return pa.table(
        {
            "item_id": pa.array([f"{100_000 + p:07d}{v:03d}" for p, v in zip(product_I, variant_I, strict=True)]),
            "title": pa.array(names, pa.string()),
            "product_type_name": [kind.name for kind in kinds],
            "product_group_name": [kind.product_group for kind in kinds],
            "colour_group_name": [COLOURS[index] for index in colour_I],
            "garment_group_name": [kind.garment_group for kind in kinds],
            "department_name": [f"{group} {k.garment_group}" for (group, _), k in zip(sections, kinds, strict=True)],
            "index_group_name": [group for group, _ in sections],
            "section_name": [section for _, section in sections],
            "price": pa.array(price_I, pa.float64()),
        }
    )


def _users(config: SyntheticConfig, taste: _Taste, rng: np.random.Generator) -> dict:
    num_users = config.num_users
    young_U = rng.random(num_users) < 0.6
    age_U = np.clip(np.where(young_U, rng.normal(26, 5, num_users), rng.normal(48, 9, num_users)), 16, 90).round()
    centre_G = np.array([GROUP_AGE[group] for group in taste.groups])
    share_G = np.array([GROUP_SHARE[group] for group in taste.groups])
    fit_UG = np.log(share_G) - 0.5 * ((age_U[:, None] - centre_G) / 9.0) ** 2
    fit_US = fit_UG[:, taste.group_S] - np.log(np.bincount(taste.group_S))[taste.group_S]
    weights_US = np.array([1.0, 0.7, 0.4])
    visible_UD = 0.35 * rng.normal(size=(num_users, VISIBLE_DIM))
    for weight in weights_US:
        section_U = (fit_US + rng.gumbel(size=fit_US.shape)).argmax(axis=1)
        type_U = rng.integers(0, len(PRODUCT_TYPES), num_users)
        colour_U = rng.integers(0, len(COLOURS), num_users)
        visible_UD += weight * 0.35 * (taste.section_SD[section_U] + taste.type_TD[type_U] + taste.colour_CD[colour_U])
    hidden_UH = 0.15 * rng.normal(size=(num_users, STYLE_DIM))
    for weight in weights_US:
        hidden_UH += weight * 0.35 * taste.style_KH[rng.integers(0, NUM_STYLES, num_users)]

    news_U = rng.random(num_users) < 0.35
    activity_U = np.exp(rng.normal(0, 1.0, num_users)) * np.where(news_U, 1.5, 1.0)
    activity_U[rng.random(num_users) < NO_PURCHASE_SHARE] = 0.0
    late_U = rng.random(num_users) < 0.5
    join_U = np.where(late_U, rng.integers(1, config.num_days, num_users), 0)
    status_U = rng.choice(["ACTIVE", "PRE-CREATE", "LEFT CLUB"], num_users, p=[0.92, 0.075, 0.005])
    users = pa.table(
        {
            "user_id": pa.array([f"customer-{index:06d}" for index in range(num_users)]),
            "club_member_status": _with_nulls(pa.array(status_U, pa.string()), rng, 0.006),
            "fashion_news_frequency": _with_nulls(pa.array(np.where(news_U, "Regularly", "NONE")), rng, 0.01),
            "age": _with_nulls(pa.array(age_U, pa.float64()), rng, 0.01),
        }
    )
    return {
        "user_taste": np.hstack([visible_UD, hidden_UH]).astype(np.float32),
        "join_day": join_U,
        "activity": activity_U,
        "users": users,
    }


def _purchases(config: SyntheticConfig, world: World) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User, item and time of each purchase, sorted by time; articles bought together have the same time."""
    rng = np.random.default_rng(np.random.SeedSequence(config.seed).spawn(4)[3])
    user_B, day_B, size_B = _baskets(config, world, rng)
    time_B = START + day_B * DAY_SECONDS + rng.integers(8 * 3600, 22 * 3600, len(day_B))
    order = np.argsort(time_B, kind="stable")
    user_B, day_B, size_B, time_B = user_B[order], day_B[order], size_B[order], time_B[order]
    item_N = np.zeros(config.num_interactions, np.int64)
    basket_N = np.repeat(np.arange(len(size_B)), size_B)
    first_N = np.concatenate([[0], np.cumsum(size_B)])
    owned = _Owned(config)
    for day in range(config.num_days):
        begin, end = np.searchsorted(day_B, [day, day + 1])
        demand_I = np.exp(world.log_demand(day))
        cumulative_I = np.cumsum(demand_I / demand_I.sum())
        for chunk in range(begin, end, CHUNK_BASKETS):
            rows = slice(chunk, min(chunk + CHUNK_BASKETS, end))
            picks = _picks(world, cumulative_I, user_B[rows], size_B[rows], owned, rng)
            item_N[first_N[rows.start] : first_N[rows.stop]] = picks
            owned.add(np.repeat(user_B[rows], size_B[rows]), picks)
    item_N = _with_repeats(user_B[basket_N], item_N, basket_N, rng)
    return user_B[basket_N], item_N, time_B[basket_N]


def _baskets(config: SyntheticConfig, world: World, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """User, day and size of each basket; the sizes add up to num_interactions."""
    size_B = np.minimum(rng.geometric(1 / MEAN_BASKET, config.num_interactions), MAX_BASKET)
    total_B = np.cumsum(size_B)
    num_baskets = int(np.searchsorted(total_B, config.num_interactions)) + 1
    size_B = size_B[:num_baskets]
    size_B[-1] -= total_B[num_baskets - 1] - config.num_interactions
    days_U = config.num_days - world.join_day
    user_B = rng.choice(config.num_users, num_baskets, p=_share(world.activity * days_U))
    day_B = world.join_day[user_B] + (rng.random(num_baskets) * days_U[user_B]).astype(np.int64)
    return user_B, day_B, size_B


class _Owned:
    """Which customer has which article, in a bitmap by hash: small at any size, and a rare false yes does no harm."""

    def __init__(self, config: SyntheticConfig) -> None:
        self.num_items = config.num_items
        self.bits = (16 * config.num_interactions).bit_length()
        self.bitmap = np.zeros(1 << self.bits, bool)

    def add(self, user: np.ndarray, item: np.ndarray) -> None:
        self.bitmap[self._slot(user, item)] = True

    def has(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        return self.bitmap[self._slot(user, item)]

    def _slot(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        pair = user.astype(np.uint64) * np.uint64(self.num_items) + item.astype(np.uint64)
        return (pair * np.uint64(0x9E3779B97F4A7C15)) >> np.uint64(64 - self.bits)


def _picks(
    world: World,
    cumulative_I: np.ndarray,
    user_B: np.ndarray,
    size_B: np.ndarray,
    owned: _Owned,
    rng: np.random.Generator,
) -> np.ndarray:
    """Articles of each basket one after the other: different and new to the customer, as far as there are such."""
    shape = (len(user_B), DISPLAY)
    shown_BM = np.minimum(np.searchsorted(cumulative_I, rng.random(shape), side="right"), len(cumulative_I) - 1)
    taste_BD = TASTE_WEIGHT * world.user_taste[user_B]
    taste_BD = taste_BD + MOOD_WEIGHT * 0.35 * rng.normal(size=taste_BD.shape).astype(np.float32)
    score_BM = np.einsum("bmd,bd->bm", world.item_taste[shown_BM], taste_BD) + rng.gumbel(size=shape)
    best_BT = np.argpartition(-score_BM, TOP - 1, axis=1)[:, :TOP]
    best_BT = np.take_along_axis(best_BT, np.argsort(-np.take_along_axis(score_BM, best_BT, 1), axis=1), 1)
    ranked_BT = np.take_along_axis(shown_BM, best_BT, axis=1)
    again_BT = np.tril(ranked_BT[:, :, None] == ranked_BT[:, None, :], -1).any(axis=2)
    again_BT |= owned.has(user_B[:, None], ranked_BT)
    ranked_BT = np.take_along_axis(ranked_BT, np.argsort(again_BT, axis=1, kind="stable"), axis=1)
    return ranked_BT[np.arange(TOP) < size_B[:, None]]


def _with_repeats(user_N: np.ndarray, item_N: np.ndarray, basket_N: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The purchases, a share of them replaced by an article that the customer took in an earlier basket."""
    order = np.argsort(user_N, kind="stable")
    user, basket, place = user_N[order], basket_N[order], np.arange(len(order))
    user_start = np.searchsorted(user, user)
    new_basket = np.r_[True, basket[1:] != basket[:-1]]
    num_earlier = np.maximum.accumulate(np.where(new_basket, place, 0)) - user_start
    is_repeat = (rng.random(len(order)) < REPEAT_SHARE) & (num_earlier > 0)
    source = np.where(is_repeat, user_start + (rng.random(len(order)) * num_earlier).astype(np.int64), place)
    while (source[source] != source).any():
        source = source[source]
    repeated_N = np.empty_like(item_N)
    repeated_N[order] = item_N[order][source]
    return repeated_N


def _share(weights: np.ndarray) -> np.ndarray:
    return weights / weights.sum()


def _zipf(num: int, exponent: float) -> np.ndarray:
    return _share(np.arange(1, num + 1) ** -exponent)


def _with_nulls(column: pa.Array, rng: np.random.Generator, share: float) -> pa.Array:
    return pa.array(column.to_numpy(zero_copy_only=False), column.type, mask=rng.random(len(column)) < share)
