"""Candidate sources: one a file, and one line a source here."""

from __future__ import annotations

from retrieval.sources.category_popularity import CategoryPopularity
from retrieval.sources.covisitation import Covisitation
from retrieval.sources.linear import Linear
from retrieval.sources.new_items import NewItems
from retrieval.sources.recent_popularity import RecentPopularity
from retrieval.sources.repeat_purchase import RepeatPurchase
from retrieval.sources.similar_content import SimilarContent
from retrieval.sources.source import CandidateSource, FittedSource, Past, Proposals, Users
from retrieval.sources.two_tower import TwoTowerSource

FITTED: tuple[type[FittedSource], ...] = (
    RecentPopularity,
    CategoryPopularity,
    Covisitation,
    RepeatPurchase,
    SimilarContent,
    Linear,
)
"""Sources that learn from the past; beside them stand those that search the index."""

__all__ = [
    "FITTED",
    "CandidateSource",
    "CategoryPopularity",
    "Covisitation",
    "FittedSource",
    "Linear",
    "NewItems",
    "Past",
    "Proposals",
    "RecentPopularity",
    "RepeatPurchase",
    "SimilarContent",
    "TwoTowerSource",
    "Users",
]
