"""What the configured order needs of all items, computed when the pipeline opens: boosts and the groups of caps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from ensemble.item_rules import mask_of
from ensemble.ordering import NO_GROUP
from ensemble.ordering_config import OrderingConfig
from features.errors import CascadeError
from features.schema import FIRST_KNOWN

# I items  G capped attributes
_AGE = "item_age_days"


class OrderingError(CascadeError, ValueError):
    """The configured order does not fit the items."""


def boosts(
    config: OrderingConfig, items: pa.Table, normalization: Mapping[str, Sequence[float]], attributes: Path
) -> np.ndarray:
    """[I] float32: what each item's score is raised by.

    Args:
        items: the etl stage's, with ages as `LogNormalize` has them.
        normalization: mean and deviation of each number's logarithm.
        attributes: the items' raw attributes; read where a boost needs them.
    Raises: RuleError if a boost's rule is wrong.
    """
    boost_I = np.zeros(len(items), np.float64)
    if config.freshness_boost:
        mean, deviation = normalization[_AGE]
        age_days_I = np.expm1(items[_AGE].to_numpy().astype(np.float64) * (deviation or 1.0) + mean)
        boost_I += config.freshness_boost * 0.5 ** (np.maximum(age_days_I, 0) / config.freshness_half_life_days)
    if config.boosts:
        table = pq.read_table(attributes)
        for rule, added in config.boosts.items():
            boost_I += added * mask_of(rule, table)
    return boost_I.astype(np.float32)


def groups(config: OrderingConfig, items: pa.Table) -> np.ndarray:
    """[G, I] int64: the value of each capped attribute; NO_GROUP where it is not known.

    Raises: OrderingError if an attribute does not exist or has several values an item.
    """
    group_GI = np.empty((len(config.caps), len(items)), np.int64)
    categories = [
        one.name.removeprefix("item_")
        for one in items.schema
        if one.name.startswith("item_") and one.name != "item_id" and pa.types.is_integer(one.type)
    ]
    for group_I, name in zip(group_GI, config.caps, strict=True):
        if name not in categories:
            close = get_close_matches(name, categories, 1)
            raise OrderingError(
                f"serving.ordering.caps: {name!r} is no category of the items with one value each; "
                f"{f'did you mean {close[0]!r}?' if close else 'there are'} {', '.join(categories) or 'none'}"
            )
        value_I = items[f"item_{name}"].to_numpy()
        group_I[:] = np.where(value_I >= FIRST_KNOWN, value_I, NO_GROUP)
    return group_GI
