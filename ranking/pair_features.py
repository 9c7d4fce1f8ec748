"""The features of a (user, item) pair: the etl stage's, what retrieval says of the pair, and how the two go together.

An item's numbers are read relative to the items in demand at the same moment: counts and ages of one period differ from
those of the next, and a ranker that learned their size in one would rank the next one worse.
"""

from __future__ import annotations

from collections.abc import Sequence

from merlin.schema import ColumnSchema, Schema, Tags

from features.as_of import HISTORY, HISTORY_GAP, ITEM_NUMBERS, PRICE_NUMBERS
from features.schema import select

RETRIEVAL_SCORE = "retrieval_score"
"""The merged score, by which retrieval orders its candidates."""
TWO_TOWER_SCORE = "two_tower_score"
"""The inner product of both towers' vectors, also of items that the two-tower model did not propose."""
SCORES = (RETRIEVAL_SCORE, TWO_TOWER_SCORE)
SIMILARITIES = ("pair_similarity_mean", "pair_similarity_last", "pair_similarity_best")
"""Cosine of the item's vector with those of the user's history: the mean, that with the newest items, the best."""
_SOURCE, _PAIR, _ITEM, _RELATIVE = "source_", "pair_", "item_", "item_relative_"
ABSOLUTE = (*ITEM_NUMBERS, *PRICE_NUMBERS)
"""Numbers of the item at the moment, which the ranker reads relative to other items' only."""
RETRIEVAL_ONLY = ("user_id", "item_id", HISTORY, HISTORY_GAP, *ABSOLUTE, "hour", "weekday")
"""What reaches the ranker in other forms, or not at all: from the lists of a few moments it would learn by heart who
took what after them, and rank the time after that worse than retrieval alone."""


def ranker_schema(etl_schema: Schema, sources: Sequence[str]) -> Schema:
    """The etl stage's features without RETRIEVAL_ONLY, and what is said of the pair.

    Args:
        sources: names of the candidate sources.
    """
    of_pair = [*SCORES, *map(source_feature, sources), *relative_names(etl_schema), *SIMILARITIES]
    of_pair += [affinity_name(name) for name in attribute_names(etl_schema)]
    added = [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS, Tags.CONTEXT]) for name in of_pair]
    return Schema([*(column for column in etl_schema if column.name not in RETRIEVAL_ONLY), *added])


def source_feature(source: str) -> str:
    """Name of the feature that says how high a candidate source ranks the item: in (0, 1], 0 where it does not."""
    return f"{_SOURCE}{source}"


def number_names(etl_schema: Schema) -> list[str]:
    """The item's numbers at a moment that a log has."""
    return [name for name in ABSOLUTE if name in etl_schema.column_names]


def relative_name(name: str) -> str:
    """Name of the feature that says how an item's number compares with those of the items in demand."""
    return f"{_RELATIVE}{name.removeprefix(_ITEM)}"


def relative_names(etl_schema: Schema) -> list[str]:
    """All of them."""
    return [relative_name(name) for name in (*number_names(etl_schema), *POPULARITY_NAMES)]


NUM_WINDOWS = 5
POPULARITY_NAMES = tuple(f"popularity_{window}" for window in range(NUM_WINDOWS))
"""The item's popularity in the windows that retrieval's item vectors have, the longest first."""


def attribute_names(etl_schema: Schema) -> list[str]:
    """Categories of the items that a user can have a taste for."""
    columns = select(select(etl_schema, Tags.ITEM), Tags.CATEGORICAL)
    return [column.name for column in columns if column.name not in RETRIEVAL_ONLY]


def affinity_name(attribute: str) -> str:
    """Name of the feature that says how much of the user's history has the item's values of an attribute."""
    return f"{_PAIR}{attribute.removeprefix(_ITEM)}"


def is_per_candidate(name: str) -> bool:
    """Whether a feature differs from candidate to candidate of one user."""
    return name in SCORES or name.startswith((_ITEM, _SOURCE, _PAIR))
