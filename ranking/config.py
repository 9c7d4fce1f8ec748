"""What the ranking stage can be told.

They stand apart from the code they configure because that imports torch and Merlin, which takes seconds: a mistake in
a configuration is reported at once.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DlrmConfig:
    """DLRM."""

    embedding_dim: Annotated[int, Field(ge=2, le=1_024)] = 32
    """Width D of the embedding tables and of the bottom MLP's output."""
    bottom_units: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Widths of the bottom MLP's hidden layers; its output has embedding_dim."""
    top_units: tuple[Annotated[int, Field(gt=0)], ...] = (128, 64)
    """Widths of the top MLP's hidden layers; its output is one logit."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the interactions dropped while training."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NegativesConfig:
    """Negatives of the ranker."""

    num_negatives: Annotated[int, Field(ge=1)] = 32
    """Negatives per interaction, drawn from what retrieval proposed at that moment."""
    num_random: Annotated[int, Field(ge=0)] = 8
    """Negatives per interaction besides, drawn from the whole catalogue."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class ClickConfig:
    """Click model of impression logs."""

    embedding_dim: Annotated[int, Field(ge=2, le=1_024)] = 16
    """Width D of the embedding tables and of the bottom MLP's output."""
    bottom_units: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Widths of the bottom MLP's hidden layers; its output has embedding_dim."""
    top_units: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (128, 64)
    """Widths of the top MLP's hidden layers; its output is one logit."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the interactions dropped while training."""
    batch_size: Annotated[int, Field(ge=1)] = 256
    """Impressions per step; with hundreds of thousands of rows, 1024 is faster."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of AdamW, which trains the MLPs."""
    table_learning_rate: Annotated[float, Field(gt=0)] = 2e-2
    """Step size of row-wise Adagrad, which trains the embedding tables."""
    l2: Annotated[float, Field(ge=0)] = 10.0
    """Weight of half the tables' summed squares beside the sum of the log losses; it holds back rare ids."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay of the MLPs."""
    max_epochs: Annotated[int, Field(ge=1)] = 10
    """Most passes over the train part."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Passes without a better log loss on the valid part before training stops."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RankingConfig:
    """Ranking model."""

    dlrm: DlrmConfig = DlrmConfig()
    """Model."""
    negatives: NegativesConfig = NegativesConfig()
    """Negatives."""
    clicks: ClickConfig = ClickConfig()
    """Impression logs, which have no lists: of the keys beside it, only num_threads applies to them."""
    batch_size: Annotated[int, Field(ge=1)] = 128
    """Lists per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay."""
    max_epochs: Annotated[int, Field(ge=1)] = 10
    """Most passes over the lists of the users who are not held out."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Passes without a better loss on the held-out users before training stops."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share of the users whose lists choose the number of epochs."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the moving average of the weights, which is the model that is kept."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of the training; its result depends on their number, so it does not follow the machine."""
