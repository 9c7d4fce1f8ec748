"""Splitting interactions by time: train < valid < test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import numpy as np
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass

from features.errors import CascadeError

TRAIN, VALID, TEST = 0, 1, 2
PART_NAMES = {TRAIN: "train", VALID: "valid", TEST: "test"}


class SplitError(CascadeError, ValueError):
    """The interactions cannot be split by time."""


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SplitConfig:
    """Time split."""

    valid_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of interactions, the latest before the test period, that choose hyperparameters and stop training."""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of interactions, the latest of all, that only the evaluation reads."""


@dataclass(frozen=True)
class TimeSplit:
    """Two points in time; an interaction at or after a point belongs to the later part."""

    valid_from: int
    """Unix seconds of the first validation interaction."""
    test_from: int
    """Unix seconds of the first test interaction."""

    def part_of(self, timestamp: np.ndarray) -> np.ndarray:
        """TRAIN, VALID or TEST for each timestamp, as int8."""
        return ((timestamp >= self.valid_from).astype(np.int8) + (timestamp >= self.test_from)).astype(np.int8)


def time_split(timestamp: np.ndarray, config: SplitConfig) -> TimeSplit:
    """Cut points so that about the configured shares fall after them; equal timestamps stay together.

    Args:
        timestamp: [num_interactions] Unix seconds, in any order.
    Raises: SplitError if a part would be empty, or there are no interactions.
    Source: Ji et al., "A critical study on data leakage in recommender system offline evaluation", TOIS 2023:
        one point in time for all users, not one item per user.
    """
    ordered = np.sort(timestamp)
    num = len(ordered)
    if not num:
        raise ValueError("the time split needs interactions, there are none; give a log with rows")
    test_from = int(ordered[int(num * (1 - config.test_share))])
    valid_from = int(ordered[int(num * (1 - config.test_share - config.valid_share))])
    split = TimeSplit(valid_from, test_from)
    counts = np.bincount(split.part_of(ordered), minlength=3)
    if not counts.all():
        raise SplitError(
            f"the time split gives {counts[TRAIN]} train, {counts[VALID]} valid and {counts[TEST]} test interactions, "
            f"each must have at least one; {num} interactions between {ordered[0]} and {ordered[-1]} (Unix seconds) "
            "are too few or share too few distinct timestamps: give more interactions or change etl.split"
        )
    return split
