"""What the retrieval and index stages can be told.

They stand apart from the code they configure because that imports torch and Merlin, which takes seconds: a mistake in
a configuration is reported at once.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class TwoTowerConfig:
    """Two-tower encoder."""

    embedding_dim: Annotated[int, Field(ge=4, le=1_024)] = 64
    """Width D of both towers and of every embedding table."""
    hidden_units: tuple[Annotated[int, Field(gt=0)], ...] = (128,)
    """Widths of the hidden layers of each tower."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the concatenated features dropped while training."""
    temperature: Annotated[float, Field(gt=0)] = 0.07
    """Initial temperature of the softmax over cosine similarities; it is learned."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RetrievalConfig:
    """Candidate model."""

    two_tower: TwoTowerConfig = TwoTowerConfig()
    """Encoder."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Examples per step."""
    num_scored_items: Annotated[int, Field(ge=2)] = 768
    """Items scored per step, shared by its examples: their own items, the rest drawn from the catalogue."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Step size of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decoupled weight decay."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the moving average of the weights, which is the model that is kept."""
    max_epochs: Annotated[int, Field(ge=1)] = 15
    """Most passes over the train part."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Passes without a better validation recall before training stops."""
    id_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of user and item ids replaced by "unseen" while training, so that new ones get a useful vector."""
    recall_at: Annotated[int, Field(ge=1)] = 100
    """Cut-off of the validation recall that stops training."""
    refit: bool = True
    """Train the served model anew on train and validation together."""
    num_proposals: Annotated[int, Field(ge=1)] = 200
    """Candidates written for each validation interaction, from which the ranker draws its negatives."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of the training. Its result depends on their number, so it does not follow the machine; and two that
    wait for each other are ten times slower than one where another process wants the core."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class IndexConfig:
    """Index over item vectors."""

    exact_up_to: Annotated[int, Field(ge=0)] = 100_000
    """Largest catalogue that is searched exactly; a larger one gets an HNSW graph."""
    hnsw_links: Annotated[int, Field(ge=4, le=128)] = 32
    """Links per item of the HNSW graph."""
    hnsw_ef_construction: Annotated[int, Field(ge=8)] = 200
    """Breadth of the search that builds the graph."""
    hnsw_ef_search: Annotated[int, Field(ge=8)] = 256
    """Least breadth of the search that answers; it grows with the number of candidates asked for."""
