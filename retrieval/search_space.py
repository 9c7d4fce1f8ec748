"""What `cascade tune retrieval` tries: the keys of RetrievalConfig that decide its recall, and how far each may go."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

from retrieval.config import RetrievalConfig


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole ones if both are whole."""

    key: str
    low: float
    high: float
    log: bool = False
    """Whether equal steps are equal ratios."""

    @property
    def is_integer(self) -> bool:
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __contains__(self, value: Any) -> bool:
        return self.low <= value <= self.high

    def with_value(self, value: Any) -> Range:
        """As wide as needed for the value."""
        return replace(self, low=min(self.low, value), high=max(self.high, value))


@dataclass(frozen=True)
class Choice:
    """One of the values."""

    key: str
    values: tuple[Any, ...]

    def __contains__(self, value: Any) -> bool:
        return value in self.values

    def with_value(self, value: Any) -> Choice:
        """With the value among them."""
        return self if value in self else replace(self, values=(*self.values, value))


Dimension = Range | Choice

SPACE: tuple[Dimension, ...] = (
    Choice("two_tower.embedding_dim", (32, 64, 128)),
    Choice("two_tower.hidden_units", ((64,), (128,), (256,), (256, 128))),
    Range("two_tower.dropout", 0.0, 0.5),
    Range("two_tower.temperature", 0.03, 0.3, log=True),
    Choice("two_tower.learned_temperature", (True, False)),
    Choice("batch_size", (256, 512, 1_024, 2_048)),
    Range("num_scored_items", 256, 4_096, log=True),
    Choice("num_hard", (0, 64, 256)),
    Range("label_smoothing", 0.0, 0.2),
    Range("learning_rate", 3e-4, 2e-2, log=True),
    Range("table_learning_rate", 5e-3, 0.5, log=True),
    Choice("weight_decay", (0.0, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)),
    Range("averaging", 0.9, 0.999),
    Range("id_dropout", 0.0, 0.5),
)


def space_around(config: RetrievalConfig) -> tuple[Dimension, ...]:
    """SPACE, widened where needed so that the configuration lies inside it and can be the first trial."""
    return tuple(dimension.with_value(value_of(config, dimension.key)) for dimension in SPACE)


def value_of(config: RetrievalConfig, key: str) -> Any:
    """The value under a dotted key."""
    return reduce(getattr, key.split("."), config)


def with_values(config: Any, values: Mapping[str, Any]) -> Any:
    """The configuration with other values under dotted keys, checked as the configuration checks them.

    Raises: pydantic.ValidationError if one is not allowed.
    """
    for key, value in values.items():
        name, _, rest = key.partition(".")
        config = replace(config, **{name: with_values(getattr(config, name), {rest: value}) if rest else value})
    return config
