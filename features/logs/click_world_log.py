"""Adapter `synthetic_clicks`: the rows of a made click world as an impression log, without their true probability."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.logs.click_world import (
    CATEGORICAL,
    CONTINUOUS,
    LABEL,
    PROBABILITY,
    ClickWorld,
    ClickWorldConfig,
    make_click_world,
)
from features.logs.impressions import ImpressionBlock, ImpressionColumns
from features.logs.quarantine import Quarantine
from features.split import PART_NAMES, SplitConfig, TimeSplit, time_split

HISTORY_LENGTH = 20
COLUMNS = ImpressionColumns(
    label=LABEL,
    continuous=(),
    categorical=CATEGORICAL,
    real=CONTINUOUS,
    timestamp="timestamp",
    calendar=True,
    group="user_id",
    as_of=("user_id", "item_id"),
    history_of="item_id",
    history_length=HISTORY_LENGTH,
)


@dataclass(frozen=True)
class ClickWorldLog:
    """An `ImpressionLog`; the rows of a part are in order of time."""

    config: ClickWorldConfig
    split_config: SplitConfig

    @property
    def columns(self) -> ImpressionColumns:
        return COLUMNS

    @property
    def num_sources(self) -> int:
        return 1

    @property
    def name(self) -> str:
        return "data.synthetic_clicks"

    @property
    def keeps_parts(self) -> bool:
        return False

    @property
    def earlier_train(self) -> bool:
        return False

    def files(self) -> list[Sequence[Path]]:
        return []

    def split(self) -> TimeSplit:
        return self._split

    def blocks(self, num_known: int, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
        first = 1
        for day in self._world.days():
            lines = np.arange(first, first + len(day))
            part = self._split.part_of(day["timestamp"].to_numpy())
            names = COLUMNS.names
            encoded = [
                column.combine_chunks().dictionary_encode() if pa.types.is_string(column.type) else column
                for column in (day[name] for name in names)
            ]
            yield ImpressionBlock(part, pa.table(encoded, names), "the made click world", lines, len(day))
            first += len(day)

    def true_probability(self) -> dict[str, np.ndarray]:
        """By part the true click probability of its rows, in their order."""
        days = [(self._split.part_of(day["timestamp"].to_numpy()), day[PROBABILITY].to_numpy()) for day in self._days()]
        part, probability = (np.concatenate(columns) for columns in zip(*days, strict=True))
        return {name: probability[part == number] for number, name in PART_NAMES.items()}

    def _days(self) -> Iterator[pa.Table]:
        return self._world.days()

    @cached_property
    def _world(self) -> ClickWorld:
        return make_click_world(self.config)

    @cached_property
    def _split(self) -> TimeSplit:
        moments = [day["timestamp"].to_numpy() for day in self._world.days()]
        return time_split(np.concatenate(moments), self.split_config)
