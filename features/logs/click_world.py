"""A made world of impressions: who saw what, where on the page, and with which probability it was clicked.

How the world works:
- Users, items, their tastes and the demand for items are those of `features.logs.synthetic`: tastes are visible in part
  (sections, types, colours, prices) and hidden in part (styles); activity and popularity are heavy tailed; users join
  and items are launched all through the log, so its end has some that its beginning has not.
- A visit is a user, a moment and a device. It shows a page of items drawn by what sells on that day, one position after
  the other, until the user stops reading.
- Each impression is clicked on its own, with the probability sigmoid(bias + LIKING * liking + user + item + position by
  device + age by hour + thrift * price + section by weekend). `liking` is the product of the tastes, with mean 0 and
  deviation 1.
- A user's profile names a favourite section and colour, those that they like best, seen through noise. The taste that
  counts is that of users with such a profile, and OWN_TASTE of what is a user's own: this part no column shows.

The probability is written beside each row: the AUC and the log loss of the best possible ranker are known.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass

from features.logs.synthetic import DAY_SECONDS, START, SyntheticConfig, World, make_world

# U users  I items  G sections  C colours  V visits  N impressions of a day  S sampled pairs
LIKING = 0.7
TASTE_DECAY = 1.0
"""Direction j of the taste space, the widest first, counts (1 + j) ** -TASTE_DECAY in what users like: a few
directions have most of it, as in the spectra of real rating matrices."""
USER_DEVIATION, ITEM_DEVIATION, TYPE_DEVIATION = 0.3, 0.4, 0.3
PRICE_WEIGHT, THRIFT_DEVIATION, WEEKEND_DEVIATION, NIGHT_WEIGHT = -0.2, 0.15, 0.3, 0.4
DEVICES, DEVICE_SHARE = ("phone", "desktop", "tablet"), (0.65, 0.25, 0.10)
POSITION_WEIGHT = (-0.5, -0.25, -0.35)
"""Of the logarithm of the position, by device: who scrolls reads less of what is below."""
USUAL_DEVICE_SHARE = 0.8
MEAN_PAGE, MAX_PAGE = 8, 24
HOUR_SHARE = np.array([3, 2, 1, 1, 1, 1, 2, 4, 5, 5, 5, 5, 6, 6, 5, 5, 5, 6, 7, 8, 9, 9, 7, 5], np.float64)
YOUNG_UNTIL, YOUNG_PEAK_HOUR, OLD_PEAK_HOUR = 35, 22, 10
OWN_TASTE = 0.35
"""Of what sets a user's taste apart from the mean of those with the same profile, the part that counts."""
PROFILE_NOISE = 0.5
"""Scale of the Gumbel noise on a favourite, in deviations of what it is chosen by."""
SAMPLED_PAIRS = 200_000


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ClickWorldConfig:
    """Size of the made world of impressions. Same config, same rows."""

    num_users: Annotated[int, Field(ge=10)] = 2_000
    """Users; each has about num_impressions / num_users impressions, a few have most. With two million impressions the
    default gives 1,000 a user and an item; in KuaiRec, a log of short videos, it is 1,742 and 1,167."""
    num_items: Annotated[int, Field(ge=50)] = 2_000
    """Items, those launched too late to be shown included."""
    num_impressions: Annotated[int, Field(ge=100)] = 200_000
    """Impressions, exactly."""
    num_days: Annotated[int, Field(ge=14)] = 90
    """Length of the log in days."""
    click_rate: Annotated[float, Field(gt=0.001, lt=0.9)] = 0.2
    """Share of impressions that are clicked, about."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of all chance in the world."""


LABEL, PROBABILITY = "clicked", "probability"
USER_FEATURES = ("club_member_status", "fashion_news_frequency", "favourite_section", "favourite_colour")
ITEM_FEATURES = (
    "product_type_name",
    "colour_group_name",
    "department_name",
    "section_name",
)
CATEGORICAL = ("user_id", "item_id", "device", *USER_FEATURES, *ITEM_FEATURES)
CONTINUOUS = ("position", "age", "price")


@dataclass(frozen=True)
class ClickWorld:
    """Users, items and what drives their clicks."""

    config: ClickWorldConfig
    world: World
    user_taste: np.ndarray
    """[U, D]."""
    item_liking: np.ndarray
    """[I, D] the product with a user's taste is the user's liking for the item."""
    liking_mean: float
    liking_deviation: float
    bias: float
    user_effect: np.ndarray
    """[U]."""
    item_effect: np.ndarray
    """[I]."""
    thrift: np.ndarray
    """[U] what a user makes of a price."""
    price: np.ndarray
    """[I] logarithm of the price, with mean 0 and deviation 1."""
    weekend: np.ndarray
    """[I] what a weekend does for the item's section."""
    peak_hour: np.ndarray
    """[U] hour at which a user clicks most."""
    usual_device: np.ndarray
    """[U] place in DEVICES."""
    profiles: pa.Table
    """[U] favourite_section and favourite_colour."""

    def days(self) -> Iterator[pa.Table]:
        """The rows of each day in order of time, with their true probability; days without a row are left out.

        Columns: `CATEGORICAL` (text), `CONTINUOUS` (age is null where unknown), timestamp (Unix seconds), clicked
        (int8), probability (float64).
        """
        activity_D = [self._activity(day).sum() for day in range(self.config.num_days)]
        rng = np.random.default_rng([self.config.seed, 1])
        num_rows_D = rng.multinomial(self.config.num_impressions, np.array(activity_D) / np.sum(activity_D))
        for day, num_rows in enumerate(num_rows_D.tolist()):
            if num_rows:
                yield self._day(day, num_rows, np.random.default_rng([self.config.seed, 2, day]))

    def logit(
        self, user: np.ndarray, item: np.ndarray, device: np.ndarray, position: np.ndarray, timestamp: np.ndarray
    ) -> np.ndarray:
        """[N] true logits of impressions.

        Args:
            user, item, device: [N] places in the tables and in DEVICES.
            position: [N] from 1.
            timestamp: [N] Unix seconds.
        """
        hour, is_weekend = timestamp // 3600 % 24, (timestamp // DAY_SECONDS + 3) % 7 >= 5
        liking = np.einsum("nd,nd->n", self.user_taste[user], self.item_liking[item])
        logit = self.bias + LIKING * (liking - self.liking_mean) / self.liking_deviation
        logit += self.user_effect[user] + self.item_effect[item] + self.thrift[user] * self.price[item]
        logit += np.array(POSITION_WEIGHT)[device] * np.log(position)
        logit += NIGHT_WEIGHT * np.cos(2 * np.pi * (hour - self.peak_hour[user]) / 24)
        return logit + self.weekend[item] * is_weekend

    def _activity(self, day: int) -> np.ndarray:
        return self.world.activity * (self.world.join_day <= day)

    def _day(self, day: int, num_rows: int, rng: np.random.Generator) -> pa.Table:
        user, item, device, position, timestamp = _shown(self, day, num_rows, rng)
        probability = 1 / (1 + np.exp(-self.logit(user, item, device, position, timestamp)))
        clicked = rng.random(num_rows) < probability
        columns = {name: column.take(pa.array(user)) for name, column in self._user_columns.items()}
        columns |= {name: column.take(pa.array(item)) for name, column in self._item_columns.items()}
        columns |= {"device": pa.array(DEVICES).take(pa.array(device)), "position": pa.array(position)}
        columns |= {"timestamp": pa.array(timestamp, pa.int64()), LABEL: pa.array(clicked.astype(np.int8))}
        columns[PROBABILITY] = pa.array(probability)
        return pa.table({name: columns[name] for name in (*CATEGORICAL, *CONTINUOUS, "timestamp", LABEL, PROBABILITY)})

    @cached_property
    def _user_columns(self) -> dict[str, pa.Array]:
        users = self.world.users
        tables = {"user_id": users, "age": users, "club_member_status": users, "fashion_news_frequency": users}
        tables |= dict.fromkeys(self.profiles.column_names, self.profiles)
        return {name: table[name].combine_chunks() for name, table in tables.items()}

    @cached_property
    def _item_columns(self) -> dict[str, pa.Array]:
        return {name: self.world.items[name].combine_chunks() for name in ("item_id", "price", *ITEM_FEATURES)}


def make_click_world(config: ClickWorldConfig) -> ClickWorld:
    """Users, items and effects; all but the bias and the scale of liking do not depend on num_impressions."""
    sizes = {"num_users": config.num_users, "num_items": config.num_items, "num_days": config.num_days}
    world = make_world(SyntheticConfig(**sizes, seed=config.seed))
    rng = np.random.default_rng([config.seed, 3])
    type_I, section_I, colour_I = (
        _codes(world.items[name]) for name in ("product_type_name", "section_name", "colour_group_name")
    )
    price_I = np.log(world.items["price"].to_numpy())
    price_I = (price_I - price_I.mean()) / price_I.std()
    item_effect_I = rng.normal(0, ITEM_DEVIATION, config.num_items) + PRICE_WEIGHT * price_I
    item_effect_I += rng.normal(0, TYPE_DEVIATION, type_I.max() + 1)[type_I]
    age_U = pc.fill_null(world.users["age"], 0.0).to_numpy()
    age_U = np.where(age_U > 0, age_U, rng.choice(age_U[age_U > 0], config.num_users))  # unknown, not absent
    profiles = pa.table(
        {
            "favourite_section": _favourites(world, world.items["section_name"], section_I, rng),
            "favourite_colour": _favourites(world, world.items["colour_group_name"], colour_I, rng),
        }
    )
    made = ClickWorld(
        config=config,
        world=world,
        user_taste=_by_profile(world.user_taste, [_codes(profiles[name]) for name in profiles.column_names]),
        item_liking=_by_direction(world.item_taste),
        liking_mean=0.0,
        liking_deviation=1.0,
        bias=0.0,
        user_effect=rng.normal(0, USER_DEVIATION, config.num_users),
        item_effect=item_effect_I,
        thrift=rng.normal(0, THRIFT_DEVIATION, config.num_users),
        price=price_I,
        weekend=rng.normal(0, WEEKEND_DEVIATION, section_I.max() + 1)[section_I],
        peak_hour=np.where(age_U < YOUNG_UNTIL, YOUNG_PEAK_HOUR, OLD_PEAK_HOUR),
        usual_device=rng.choice(len(DEVICES), config.num_users, p=DEVICE_SHARE),
        profiles=profiles,
    )
    return _scaled(made, np.random.default_rng([config.seed, 4]))


def _scaled(made: ClickWorld, rng: np.random.Generator) -> ClickWorld:
    """With the scale of liking, and the bias that gives the click rate, from sampled impressions."""
    from dataclasses import replace

    num_days = made.config.num_days
    shown = [_shown(made, day, SAMPLED_PAIRS // 8, rng) for day in np.linspace(0, num_days - 1, 8).astype(int).tolist()]
    user, item, device, position, timestamp = (np.concatenate(columns) for columns in zip(*shown, strict=True))
    liking_S = np.einsum("sd,sd->s", made.user_taste[user], made.item_liking[item])
    made = replace(made, liking_mean=float(liking_S.mean()), liking_deviation=float(liking_S.std()))
    logit_S = made.logit(user, item, device, position, timestamp)
    low, high = -20.0, 20.0
    for _ in range(50):
        bias = (low + high) / 2
        low, high = (low, bias) if (1 / (1 + np.exp(-bias - logit_S))).mean() > made.config.click_rate else (bias, high)
    return replace(made, bias=bias)


def _shown(made: ClickWorld, day: int, num_rows: int, rng: np.random.Generator) -> tuple[np.ndarray, ...]:
    """[N] user, item, device, position and timestamp of what is shown on a day, in order of time."""
    size_V = np.minimum(rng.geometric(1 / MEAN_PAGE, num_rows), MAX_PAGE)
    through_V = np.cumsum(size_V)
    num_visits = int(np.searchsorted(through_V, num_rows)) + 1
    size_V = size_V[:num_visits]
    size_V[-1] -= through_V[num_visits - 1] - num_rows
    activity_U = made._activity(day)
    user_V = rng.choice(len(activity_U), num_visits, p=activity_U / activity_U.sum())
    hour_V = rng.choice(24, num_visits, p=HOUR_SHARE / HOUR_SHARE.sum())
    second_V = np.sort(hour_V * 3600 + rng.integers(0, 3600, num_visits))
    other_V = rng.choice(len(DEVICES), num_visits, p=DEVICE_SHARE)
    device_V = np.where(rng.random(num_visits) < USUAL_DEVICE_SHARE, made.usual_device[user_V], other_V)
    demand_I = np.exp(made.world.log_demand(day))
    through_I = np.cumsum(demand_I / demand_I.sum())
    item_N = np.minimum(np.searchsorted(through_I, rng.random(num_rows), side="right"), len(through_I) - 1)
    position_N = np.arange(num_rows) - np.repeat(np.cumsum(size_V) - size_V, size_V) + 1
    visit_N = np.repeat(np.arange(num_visits), size_V)
    return user_V[visit_N], item_N, device_V[visit_N], position_N, START + day * DAY_SECONDS + second_V[visit_N]


def _by_profile(user_taste: np.ndarray, profile_codes: list[np.ndarray]) -> np.ndarray:
    """[U, D] the mean taste of each part of a user's profile, and OWN_TASTE of what is left."""
    mean_UD, left_UD = np.zeros(user_taste.shape), user_taste.astype(np.float64)
    for code_U in profile_codes:
        mean_GD = np.zeros((code_U.max() + 1, user_taste.shape[1]))
        np.add.at(mean_GD, code_U, left_UD)
        mean_GD /= np.bincount(code_U)[:, None]
        mean_UD, left_UD = mean_UD + mean_GD[code_U], left_UD - mean_GD[code_U]
    return mean_UD + OWN_TASTE * left_UD


def _by_direction(item_taste: np.ndarray) -> np.ndarray:
    """[I, D] tastes whose directions count as TASTE_DECAY says."""
    spread, direction_DD = np.linalg.eigh(np.cov(item_taste.T.astype(np.float64)))
    direction_DD = direction_DD[:, np.argsort(-spread)]
    weight_D = (1.0 + np.arange(len(spread))) ** -TASTE_DECAY
    return (item_taste @ direction_DD * weight_D) @ direction_DD.T


def _codes(column: pa.ChunkedArray) -> np.ndarray:
    return column.combine_chunks().dictionary_encode().indices.to_numpy()


def _favourites(world: World, names: pa.ChunkedArray, code_I: np.ndarray, rng: np.random.Generator) -> pa.Array:
    """[U] the name whose items a user likes best on average, seen through noise."""
    num_names = int(code_I.max()) + 1
    centre_GD = np.zeros((num_names, world.item_taste.shape[1]))
    np.add.at(centre_GD, code_I, world.item_taste)
    centre_GD /= np.bincount(code_I)[:, None]
    liking_UG = world.user_taste @ centre_GD.T
    liking_UG = liking_UG / liking_UG.std() + PROFILE_NOISE * rng.gumbel(size=liking_UG.shape)
    return names.combine_chunks().dictionary_encode().dictionary.take(pa.array(liking_UG.argmax(axis=1)))
