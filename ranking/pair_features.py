"""The features of a (user, item) pair: the etl stage's, and what retrieval says of the pair."""

from __future__ import annotations

from collections.abc import Sequence

from merlin.schema import ColumnSchema, Schema, Tags

from features.as_of import HISTORY_GAP

RETRIEVAL_SCORE = "retrieval_score"
"""The merged score, by which retrieval orders its candidates."""
TWO_TOWER_SCORE = "two_tower_score"
"""The inner product of both towers' vectors, also of items that the two-tower model did not propose."""
SCORES = (RETRIEVAL_SCORE, TWO_TOWER_SCORE)
_SOURCE = "source_"
RETRIEVAL_ONLY = ("user_id", "item_id", HISTORY_GAP)
"""The time gaps of the history, and ids, which only reach the ranker through the retrieval scores: from the short
validation part it would learn by heart who took what in it, and rank the time after it worse than retrieval alone."""


def ranker_schema(etl_schema: Schema, sources: Sequence[str]) -> Schema:
    """The etl stage's features without RETRIEVAL_ONLY, and what retrieval says of the pair.

    Args:
        sources: names of the candidate sources.
    """
    of_pair = [*SCORES, *map(source_feature, sources)]
    added = [ColumnSchema(name, dtype="float32", tags=[Tags.CONTINUOUS, Tags.CONTEXT]) for name in of_pair]
    return Schema([*(column for column in etl_schema if column.name not in RETRIEVAL_ONLY), *added])


def source_feature(source: str) -> str:
    """Name of the feature that says how high a candidate source ranks the item: in (0, 1], 0 where it does not."""
    return f"{_SOURCE}{source}"


def is_per_candidate(name: str) -> bool:
    """Whether a feature differs from candidate to candidate of one user."""
    return name in SCORES or name.startswith(("item_", _SOURCE))
