"""How slates are ordered: the configuration, apart from the code that needs the items."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class OrderingConfig:
    """Order of the slate. Left as it is, the best-scored items come first."""

    temperature: Annotated[float, Field(ge=0, le=1_000)] = 0.0
    """Of sampling without replacement, in units of score; 0 does not sample. A request may say another."""
    diversity: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Weight of being unlike the items above against the score (MMR); 0 looks at the score alone. A request may say
    another."""
    caps: dict[str, Count] = Field(default_factory=dict)
    """Attribute of the items to the most items of one of its values in a slate, e.g. { department_name = 3 }. Lifted
    where nothing else is left."""
    boosts: dict[str, float] = Field(default_factory=dict)
    """Rule over item attributes, as in serving.filters.rules, to what it adds to the score when slates are ordered."""
    freshness_boost: Annotated[float, Field(ge=0)] = 0.0
    """What is added to the score of an item of age 0 when slates are ordered; it halves with every half-life."""
    freshness_half_life_days: Annotated[float, Field(gt=0)] = 7.0
    """Days after which half of the freshness boost is left; ages are counted up to the moment of the features."""
