"""The ranker of candidates: categories as vectors, a network over them and the numbers, on top of retrieval's score.

A user's own vectors are computed once and shared by the candidates.
"""

from __future__ import annotations

import torch
from merlin.schema import Schema, Tags
from torch import nn

from features.batches import Batch
from features.embedding import embedding_tables
from features.schema import list_length, select
from ranking.config import NetworkConfig
from ranking.networks import network_of
from ranking.pair_features import RETRIEVAL_SCORE, SCORES, is_per_candidate

# B users  K candidates  N rows  C categorical features  F continuous features  D embedding
INITIAL_SCALE = 0.1
"""Size of the untrained embeddings, of their usual 1."""


class Ranker(nn.Module):
    """Scores user-item pairs: the retrieval score, and what the features say beyond it.

    Args:
        schema: the features as `ranker_schema` gives them.
    """

    def __init__(self, schema: Schema, config: NetworkConfig) -> None:
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
        self.network = network_of(config, len(self.continuous), len(self.categorical) + len(ready))
        self.output = nn.Linear(self.network.width, 1)
        nn.init.zeros_(self.output.weight)  # untrained, it keeps retrieval's order
        nn.init.zeros_(self.output.bias)

    @property
    def inputs(self) -> list[str]:
        """Names of the features it reads."""
        return [*self.categorical, *self.continuous, *self.projections]

    def forward(self, batch: Batch) -> torch.Tensor:
        """[N] scores, a row of the batch is one pair; lists are [N, length]."""
        return self._score(self.embedded(batch), {name: batch[name] for name in self.continuous})

    def score_candidates(self, batch: Batch) -> torch.Tensor:
        """[B, K] scores: per-user features are [B] or [B, length], per-candidate ones [B, K] or [B, K, length].

        `retrieval_score` [B, K] says what B and K are.
        """
        num_users, num_candidates = batch[RETRIEVAL_SCORE].shape
        per_user = {name for name in self.inputs if not is_per_candidate(name)}
        flat = {name: batch[name] if name in per_user else batch[name].flatten(0, 1) for name in self.inputs}
        embedded = self.embedded(flat)
        user = torch.arange(num_users).repeat_interleave(num_candidates)
        vectors = {name: vector[user] if name in per_user else vector for name, vector in embedded.items()}
        numbers = {name: flat[name][user] if name in per_user else flat[name] for name in self.continuous}
        return self._score(vectors, numbers).reshape(num_users, num_candidates)

    def set_score_scale(self, scores: dict[str, torch.Tensor]) -> None:
        """Take mean and deviation of the SCORES from training pairs."""
        columns = torch.stack([scores[name].flatten() for name in SCORES], dim=1)
        self.score_mean, self.score_deviation = columns.mean(0), columns.std(0).clamp(min=1e-6)

    def scaled(self, numbers: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The numbers by name, of any shape, with the SCORES in deviations from their mean."""
        of_scores = {
            name: (numbers[name] - self.score_mean[place]) / self.score_deviation[place]
            for place, name in enumerate(SCORES)
        }
        return numbers | of_scores

    def trust(self, share: float) -> None:
        """Keep only a share of what it adds to the retrieval score."""
        with torch.no_grad():
            for weight in self.output.parameters():
                weight *= share

    def embedded(self, batch: Batch) -> dict[str, torch.Tensor]:
        """[N, D] of each category and each ready-made vector, in the order of `inputs`."""
        vectors = self.tables({name: batch[name] for name in self.categorical})
        vectors = {name: vectors[name] for name in self.categorical}
        return vectors | {name: project(batch[name]) for name, project in self.projections.items()}

    def _score(self, vectors: dict[str, torch.Tensor], numbers: dict[str, torch.Tensor]) -> torch.Tensor:
        score_N, scaled = numbers[RETRIEVAL_SCORE], self.scaled(numbers)
        number_NF = torch.stack([scaled[name] for name in self.continuous], dim=1)
        vector_NCD = torch.stack([*vectors.values()], dim=1)
        return score_N + self.output(self.network(number_NF, vector_NCD)).squeeze(-1)


def _vectors(schema: Schema) -> Schema:
    return select(schema, Tags.EMBEDDING)
