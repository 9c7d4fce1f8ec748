"""What a search over settings may try: keys of a configuration, and how far each may go."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any


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


def space_around(config: Any, space: Iterable[Dimension]) -> tuple[Dimension, ...]:
    """The space, widened where needed so that the configuration lies inside it and can be the first trial."""
    return tuple(dimension.with_value(value_of(config, dimension.key)) for dimension in space)


def value_of(config: Any, key: str) -> Any:
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
