"""Configuration of the etl stage; light to import."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

from features.split import SplitConfig


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ImpressionsConfig:
    """Features from impressions, such as Criteo's."""

    min_frequency: Annotated[int, Field(ge=1)] = 10
    """Training rows that a category must stand in to get an id of its own; rarer ones share the id of the unseen."""
    max_categories: Annotated[int, Field(ge=0)] = 0
    """Most categories of a column that get an id of their own, the most frequent first; 0 for all."""
    count_encoded: tuple[str, ...] = ()
    """Categorical columns whose categories' numbers of training rows become a number beside them."""
    target_encoded: tuple[str, ...] = ()
    """Categorical columns whose categories' click rates become a number beside them, out of fold in training."""
    folds: Annotated[int, Field(ge=2, le=100)] = 5
    """Folds of the target encoding."""
    smoothing: Annotated[float, Field(ge=0)] = 20.0
    """Weight, in rows, of the mean click rate in the rate of a category."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EtlConfig:
    """Features from logs."""

    split: SplitConfig = SplitConfig()
    """Time split."""
    history_length: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Interactions kept in a user's history feature, the newest first."""
    popularity_window_days: Annotated[float, Field(gt=0, le=36_500)] = 28.0
    """Window in days of an item's and a user's recent interactions."""
    list_max_length: Annotated[int, Field(ge=1, le=100)] = 8
    """Elements kept of each list feature of users and items."""
    text_dim: Annotated[int, Field(ge=1, le=1_000)] = 32
    """Numbers of the vector that an item's text becomes."""
    drop_seen: bool = True
    """Never recommend what the user already interacted with. Right for films; wrong where people buy again."""
    serve_state: Literal["before_test", "latest"] = "before_test"
    """The moment up to which serving knows the users: the start of the test period (so that `evaluate` is honest),
    or the end of the log (to go live)."""
    impressions: ImpressionsConfig = ImpressionsConfig()
    """Impressions; of the keys above only `split` and `list_max_length` apply to them."""
