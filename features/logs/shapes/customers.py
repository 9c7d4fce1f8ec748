"""The customers of a made fashion shop: the seven columns of the H&M customers, and what the log does not show."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa

from features.logs.fashion import GROUP_AGE, GROUP_SHARE
from features.logs.scramble import scrambled64
from features.logs.shapes.hex_text import hex_text

# N rows of a chunk  U customers  G index groups
CHUNK_USERS = 1 << 16
NUM_TASTES = 4
"""Article clusters that a customer likes, the first most."""
JOIN_POWER = 1.3
"""Above 1: more customers join early than late."""
COMMON_POSTAL_SHARE = 0.09
CUSTOMERS_OF_A_POSTAL_CODE = 4
SHARES = {"fn": 0.35, "active": 0.97, "no_age": 0.012, "no_status": 0.0045, "no_news": 0.012, "never": 0.007}
CUSTOMER_SCHEMA = pa.schema(
    [
        *(("customer_id", pa.string()), ("FN", pa.float64()), ("Active", pa.float64())),
        *(("club_member_status", pa.string()), ("fashion_news_frequency", pa.string())),
        *(("age", pa.float64()), ("postal_code", pa.string())),
    ]
)


class Customers:
    """Hidden columns of all customers, and their table in chunks. Customer n has the n-th id in order."""

    def __init__(self, num_users: int, num_days: int, cluster_of: list[np.ndarray], seed: int) -> None:
        """Draw the customers.

        Args:
            num_days: length of the log.
            cluster_of: for each index group of GROUP_AGE, the clusters of its articles.
        """
        self.num_users, self.num_days, self.cluster_of, self.seed = num_users, num_days, cluster_of, seed
        self.activity = np.empty(num_users, np.float32)
        """[U] relative rate of visits; 0: never buys."""
        self.join_day = np.empty(num_users, np.int32)
        """[U] day of the first visit."""
        self.online = np.empty(num_users, np.float32)
        """[U] share of visits that are in the web shop."""
        self.tastes = np.empty((num_users, NUM_TASTES), np.int32)
        for first, visible, rng in self._chunks():
            self._draw_hidden(slice(first, first + len(visible["age"])), visible, rng)

    def ids(self, users: np.ndarray) -> pa.StringArray:
        """64 hex digits for each customer number; higher numbers have higher ids."""
        step = np.uint64((2**64 - 1) // self.num_users)
        number = users.astype(np.uint64)
        words = self._words(number, 0)
        words[:, 0] = number * step + words[:, 0] % step
        return hex_text(words)

    def tables(self) -> Iterator[pa.Table]:
        """The customers in order, with columns as in `CUSTOMER_SCHEMA`."""
        for first, visible, _ in self._chunks():
            users = np.arange(first, first + len(visible["age"]))
            columns = [self.ids(users)] + [visible[name] for name in CUSTOMER_SCHEMA.names[1:]]
            yield pa.Table.from_arrays(columns, schema=CUSTOMER_SCHEMA)

    def _words(self, number: np.ndarray, kind: int) -> np.ndarray:
        key = np.uint64(np.random.SeedSequence(self.seed, spawn_key=(1, kind)).generate_state(1, np.uint64)[0])
        return np.stack(
            [scrambled64(scrambled64(number * np.uint64(4) + np.uint64(k)) ^ key) for k in range(4)], axis=1
        )

    def _chunks(self) -> Iterator[tuple[int, dict[str, pa.Array], np.random.Generator]]:
        """First customer, visible columns, and the generator behind them."""
        for chunk, first in enumerate(range(0, self.num_users, CHUNK_USERS)):
            rng = np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=(2, chunk)))
            yield first, self._visible(min(CHUNK_USERS, self.num_users - first), rng), rng

    def _visible(self, num: int, rng: np.random.Generator) -> dict[str, pa.Array]:
        fn = rng.random(num) < SHARES["fn"]
        active = fn & (rng.random(num) < SHARES["active"])
        status = rng.choice(["ACTIVE", "PRE-CREATE", "LEFT CLUB"], num, p=[0.93, 0.0697, 0.0003])
        news = np.where(fn, "Regularly", "NONE").astype(object)
        news[rng.random(num) < 0.0006] = "Monthly"
        young = rng.random(num) < 0.6
        age = np.clip(np.where(young, rng.normal(25, 5, num), rng.normal(48, 9, num)), 16, 99).round()
        places = max(self.num_users // CUSTOMERS_OF_A_POSTAL_CODE, 1)
        place = np.where(rng.random(num) < COMMON_POSTAL_SHARE, 0, rng.integers(1, places + 1, num))
        return {
            "FN": pa.array(np.ones(num), mask=~fn),
            "Active": pa.array(np.ones(num), mask=~active),
            "club_member_status": pa.array(status.astype(object), mask=rng.random(num) < SHARES["no_status"]),
            "fashion_news_frequency": pa.array(news, mask=rng.random(num) < SHARES["no_news"]),
            "age": pa.array(age, mask=rng.random(num) < SHARES["no_age"]),
            "postal_code": hex_text(self._words(place.astype(np.uint64), 1)),
        }

    def _draw_hidden(self, rows: slice, visible: dict[str, pa.Array], rng: np.random.Generator) -> None:
        num = rows.stop - rows.start
        age_N = visible["age"].fill_null(35).to_numpy(zero_copy_only=False)
        fn_N = visible["FN"].is_valid().to_numpy(zero_copy_only=False)
        activity_N = np.exp(rng.normal(0, 1.3, num)) * np.where(fn_N, 1.6, 1.0)
        self.activity[rows] = np.where(rng.random(num) < SHARES["never"], 0, activity_N)
        self.join_day[rows] = self.num_days * rng.random(num) ** JOIN_POWER
        self.online[rows] = np.clip(rng.normal(0.72, 0.3, num), 0.02, 0.98)
        share_G, centre_G = np.array([(GROUP_SHARE[group], GROUP_AGE[group]) for group in GROUP_AGE]).T
        fit_NG = np.log(share_G) - 0.5 * ((age_N[:, None] - centre_G) / 9.0) ** 2
        for taste in range(NUM_TASTES):
            group_N = (fit_NG + rng.gumbel(size=fit_NG.shape)).argmax(axis=1)
            draw_N = rng.random(num)
            for group, clusters in enumerate(self.cluster_of):
                mine = group_N == group
                self.tastes[rows, taste][mine] = clusters[(draw_N[mine] * len(clusters)).astype(np.int64)]
