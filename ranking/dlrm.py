"""DLRM: categories as vectors, numbers through a bottom MLP, all pairwise dot products, a top MLP.

Built from Merlin Models' torch blocks. A user's own vectors are computed once and shared by the candidates.

Source: Naumov et al., "Deep learning recommendation model for personalization and recommendation systems", 2019.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from merlin.models.torch import MLPBlock
from merlin.models.torch.blocks.dlrm import DLRMInteraction
from merlin.schema import ColumnSchema, Schema, Tags
from torch import nn

from features.as_of import HISTORY_GAP
from features.batches import Batch
from features.embedding import embedding_tables
from features.schema import list_length, select
from ranking.config import DlrmConfig

# B users  K candidates  N rows  C categorical features  F continuous features  D embedding
RETRIEVAL_SCORE = "retrieval_score"
"""The merged score, by which retrieval orders its candidates."""
TWO_TOWER_SCORE = "two_tower_score"
"""The inner product of both towers' vectors, also of items that the two-tower model did not propose."""
SCORES = (RETRIEVAL_SCORE, TWO_TOWER_SCORE)
_SOURCE = "source_"
INITIAL_SCALE = 0.1
"""Size of the untrained embeddings, of their usual 1."""
RETRIEVAL_ONLY = ("user_id", "item_id", HISTORY_GAP)
"""The time gaps of the history, and ids, which only reach the ranker through the retrieval scores: from the short
validation part it would learn by heart
who took what in it, and rank the time after it worse than retrieval alone does."""


class Dlrm(nn.Module):
    """Scores user-item pairs: the retrieval score, and what the features say beyond it.

    Args:
        schema: the features as `ranker_schema` gives them.
    """

    def __init__(self, schema: Schema, config: DlrmConfig) -> None:
        super().__init__()
        self.categorical = [column.name for column in select(schema, Tags.CATEGORICAL)]
        self.continuous = [column.name for column in select(schema, Tags.CONTINUOUS)]
        self.tables = embedding_tables(schema, config.embedding_dim)
        ready = {column.name: nn.Linear(list_length(column) or 1, config.embedding_dim) for column in _vectors(schema)}
        self.projections = nn.ModuleDict(ready)
        with torch.no_grad():  # what is seldom seen, such as an hour of the day, starts out with next to no say
            for weight in [*self.tables.parameters(), *self.projections.parameters()]:
                weight *= INITIAL_SCALE
        self.register_buffer("score_mean", torch.zeros(len(SCORES)))
        self.register_buffer("score_deviation", torch.ones(len(SCORES)))
        self.bottom = MLPBlock([*config.bottom_units, config.embedding_dim])
        self.interaction = DLRMInteraction()
        self.dropout = nn.Dropout(config.dropout)
        self.top = MLPBlock([*config.top_units])
        self.output = nn.Linear(config.top_units[-1], 1)
        nn.init.zeros_(self.output.weight)  # untrained, it keeps retrieval's order
        nn.init.zeros_(self.output.bias)

    @property
    def inputs(self) -> list[str]:
        """Names of the features it reads."""
        return [*self.categorical, *self.continuous, *self.projections]

    def forward(self, batch: Batch) -> torch.Tensor:
        """[N] scores, a row of the batch is one pair; lists are [N, length]."""
        return self._score(self._embedded(batch), {name: batch[name] for name in self.continuous})

    def score_candidates(self, batch: Batch) -> torch.Tensor:
        """[B, K] scores: per-user features are [B] or [B, length], per-candidate ones [B, K] or [B, K, length].

        `retrieval_score` [B, K] says what B and K are.
        """
        num_users, num_candidates = batch[RETRIEVAL_SCORE].shape
        per_user = {name for name in self.inputs if not is_per_candidate(name)}
        flat = {name: batch[name] if name in per_user else batch[name].flatten(0, 1) for name in self.inputs}
        embedded = self._embedded(flat)
        user = torch.arange(num_users).repeat_interleave(num_candidates)
        vectors = {name: vector[user] if name in per_user else vector for name, vector in embedded.items()}
        numbers = {name: flat[name][user] if name in per_user else flat[name] for name in self.continuous}
        return self._score(vectors, numbers).reshape(num_users, num_candidates)

    def set_score_scale(self, scores: dict[str, torch.Tensor]) -> None:
        """Take mean and deviation of the SCORES from training pairs."""
        columns = torch.stack([scores[name].flatten() for name in SCORES], dim=1)
        self.score_mean, self.score_deviation = columns.mean(0), columns.std(0).clamp(min=1e-6)

    def _embedded(self, batch: Batch) -> dict[str, torch.Tensor]:
        """[N, D] of each category and each ready-made vector, in the order of `inputs`."""
        vectors = self.tables({name: batch[name] for name in self.categorical})
        vectors = {name: vectors[name] for name in self.categorical}
        return vectors | {name: project(batch[name]) for name, project in self.projections.items()}

    def _score(self, vectors: dict[str, torch.Tensor], numbers: dict[str, torch.Tensor]) -> torch.Tensor:
        score_N = numbers[RETRIEVAL_SCORE]
        for place, name in enumerate(SCORES):
            scaled_N = (numbers[name] - self.score_mean[place]) / self.score_deviation[place]
            numbers = numbers | {name: scaled_N}
        numbers_NF = torch.stack([numbers[name] for name in self.continuous], dim=1)
        bottom_ND = self.bottom(numbers_NF)
        stacked_NCD = torch.stack([bottom_ND, *vectors.values()], dim=1)
        crossed = torch.cat([bottom_ND, self.interaction(stacked_NCD)], dim=1)
        return score_N + self.output(self.top(self.dropout(crossed))).squeeze(-1)


def _vectors(schema: Schema) -> Schema:
    return select(schema, Tags.EMBEDDING)


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
