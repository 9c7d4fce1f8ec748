"""Shape `criteo`: impressions with a label that can be learned, as label, I1..I13, C1..C26, in a file a day.

Row n is the same whatever the number of rows, the files and their form: rows are made in chunks of a fixed size, each
from its own seed. The log-odds of a click are a sum over the categories and integers, plus the inner products of each
two crossed categories' hidden vectors (a factorisation machine), so that models with interactions beat those without.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.logs.scramble import scrambled32
from features.logs.shapes.criteo_columns import CATEGORIES, CROSSED, INTEGERS, CategoryColumn
from features.logs.shapes.hex_text import hex_text
from features.logs.shapes.table_file import ROW_GROUP_ROWS, TableFile

# N rows of a chunk  I integers  C categories  S slots of an effect table  D hidden vector
CHUNK_ROWS = 1 << 16
FULL_ROWS = 45_840_617
"""Rows of the Kaggle data set."""
NUM_DAYS = 24
"""Files, as many as the 1TB logs have."""
CLICK_SHARE = 0.256
SLOT_BITS, HIDDEN_DIM = 14, 4
CROSS_WEIGHT = 0.7
"""Standard deviation of what the crossed categories add to the log-odds."""
MAX_LOG = 16.0
SCHEMA = pa.schema(
    [pa.field("label", pa.int8(), nullable=False)]
    + [pa.field(f"I{number}", pa.int64()) for number in range(1, len(INTEGERS) + 1)]
    + [pa.field(f"C{number}", pa.string()) for number in range(1, len(CATEGORIES) + 1)]
)


class CriteoWorld:
    """Made impressions of one seed; row numbers count from 0 and have no end."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(0,)))
        self.salt_C = rng.integers(0, 2**32, len(CATEGORIES), dtype=np.uint32)
        self.effect_CS = rng.normal(size=(len(CATEGORIES), 1 << SLOT_BITS)).astype(np.float32)
        self.effect_CS *= np.array([[column.weight] for column in CATEGORIES], np.float32)
        self.hidden_CSD = rng.normal(size=(len(CROSSED), 1 << SLOT_BITS, HIDDEN_DIM)).astype(np.float32)
        self.hidden_CSD *= (CROSS_WEIGHT**2 / HIDDEN_DIM / (len(CROSSED) * (len(CROSSED) - 1) / 2)) ** 0.25
        self._latest: tuple[int, pa.Table, np.ndarray] | None = None

    def rows(self, begin: int, end: int) -> pa.Table:
        """Rows begin <= n < end, with columns as in `SCHEMA`."""
        parts = []
        for chunk in range(begin // CHUNK_ROWS, -(-end // CHUNK_ROWS)):
            first = chunk * CHUNK_ROWS
            table = self._chunk(chunk)[0]
            parts.append(table.slice(max(begin - first, 0), min(end, first + CHUNK_ROWS) - max(begin, first)))
        return pa.concat_tables([SCHEMA.empty_table(), *parts])

    def log_odds(self, begin: int, end: int) -> np.ndarray:
        """[end - begin] what the best possible model would say of these rows; tests take it as the oracle."""
        chunks = range(begin // CHUNK_ROWS, -(-end // CHUNK_ROWS))
        odds = np.concatenate([self._chunk(chunk)[1] for chunk in chunks])
        return odds[begin - chunks.start * CHUNK_ROWS :][: end - begin]

    @cached_property
    def bias(self) -> float:
        """Makes `CLICK_SHARE` of a chunk of their own clicks."""
        odds_N = self._features(np.random.SeedSequence(self.seed, spawn_key=(1,)))[2]
        low, high = -20.0, 20.0
        for _ in range(40):
            middle = (low + high) / 2
            low, high = (middle, high) if _sigmoid(odds_N + middle).mean() < CLICK_SHARE else (low, middle)
        return (low + high) / 2

    def _chunk(self, chunk: int) -> tuple[pa.Table, np.ndarray]:
        """Rows and their log-odds; the latest are kept, because the next rows often begin in the same chunk."""
        if self._latest is None or self._latest[0] != chunk:
            self._latest = (chunk, *self._made(chunk))
        return self._latest[1:]

    def _made(self, chunk: int) -> tuple[pa.Table, np.ndarray]:
        seed = np.random.SeedSequence(self.seed, spawn_key=(2, chunk))
        integers, categories, odds_N = self._features(seed.spawn(1)[0])
        odds_N = odds_N + self.bias
        label_N = np.random.default_rng(seed).random(CHUNK_ROWS) < _sigmoid(odds_N)
        columns = [pa.array(label_N.astype(np.int8)), *integers, *categories]
        return pa.Table.from_arrays(columns, schema=SCHEMA), odds_N

    def _features(self, seed: np.random.SeedSequence) -> tuple[list[pa.Array], list[pa.Array], np.ndarray]:
        """Integers, categories, and their part of the log-odds."""
        rng = np.random.default_rng(seed)
        gaps = rng.random((11, CHUNK_ROWS), dtype=np.float32)
        odds_N = np.zeros(CHUNK_ROWS, np.float32)
        integers = []
        for column in INTEGERS:
            z_N = rng.standard_normal(CHUNK_ROWS, dtype=np.float32)
            missing_N = gaps[column.gap] < column.missing
            value_N = np.exp(np.minimum(column.mean + column.deviation * z_N, MAX_LOG)).astype(np.int64)
            if column.negative:
                below_N = np.minimum(rng.geometric(0.85, CHUNK_ROWS), 3)
                value_N = np.where(rng.random(CHUNK_ROWS) < column.negative, -below_N, value_N)
            odds_N += np.where(missing_N, 0, column.weight * z_N)
            integers.append(pa.array(value_N, mask=missing_N))
        categories, hidden_sum_ND, hidden_squares_N = [], np.zeros((CHUNK_ROWS, HIDDEN_DIM), np.float32), 0.0
        draws: dict[int, np.ndarray] = {}
        for place, column in enumerate(CATEGORIES):
            draw_N = rng.random(CHUNK_ROWS)
            if column.same_draw >= 0:
                draw_N = draws.setdefault(column.same_draw, draw_N)
            code_N = scrambled32(ranks(column, draw_N) ^ self.salt_C[place])
            missing_N = gaps[column.gap] < column.missing if column.missing else None
            slot_N = code_N >> np.uint32(32 - SLOT_BITS)
            effect_N = self.effect_CS[place, slot_N]
            odds_N += effect_N if missing_N is None else np.where(missing_N, 0, effect_N)
            if place in CROSSED:
                hidden_ND = self.hidden_CSD[CROSSED.index(place), slot_N]
                hidden_sum_ND += hidden_ND
                hidden_squares_N = hidden_squares_N + np.square(hidden_ND).sum(axis=1)
            categories.append(hex_text(code_N, missing_N))
        odds_N += (np.square(hidden_sum_ND).sum(axis=1) - hidden_squares_N) / 2
        return integers, categories, odds_N


def ranks(column: CategoryColumn, draw: np.ndarray) -> np.ndarray:
    """Ranks of categories, uint32, 0 is the most frequent: the inverse of the distribution function at `draw`, 0..1."""
    power = 1 - column.exponent
    first, last = column.shift**power, (column.num_values + column.shift) ** power
    place = (first + draw * (last - first)) ** (1 / power) - column.shift
    return np.clip(place, 0, column.num_values - 1).astype(np.uint32)


def write_criteo(folder: Path, num_rows: int, file_format: str, seed: int) -> Iterator[tuple[str, int]]:
    """Write day_0 to day_23, of as many rows each as can be, into a folder that exists.

    Args:
        file_format: extension of the files: "tsv", "tsv.gz" or "parquet".
    Yields: the file's name and its rows, after each file.
    """
    world = CriteoWorld(seed)
    days = min(NUM_DAYS, num_rows)
    for day in range(days):
        begin, end = day * num_rows // days, (day + 1) * num_rows // days
        with TableFile(folder / f"day_{day}.{file_format}", SCHEMA, header=False) as file:
            for first in range(begin, end, ROW_GROUP_ROWS):
                file.write(world.rows(first, min(first + ROW_GROUP_ROWS, end)))
        yield file.path.name, file.num_rows


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))
