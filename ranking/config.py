"""What the ranking stage can be told.

They stand apart from the code they configure because that imports torch and Merlin, which takes seconds: a mistake in
a configuration is reported at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DlrmConfig:
    """DLRM."""

    bottom_units: tuple[Annotated[int, Field(gt=0)], ...] = (64,)
    """Widths of the bottom MLP's hidden layers; its output has embedding_dim."""
    top_units: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (128, 64)
    """Widths of the top MLP's hidden layers; its output is one logit."""
    pooled_scalars: bool = False
    """Whether the top MLP also reads the mean of each vector."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class DcnV2Config:
    """DCN-v2."""

    num_layers: Annotated[int, Field(ge=1)] = 2
    """Cross layers."""
    rank: Annotated[int, Field(ge=0)] = 0
    """Rank of the experts' matrices; 0 stands for one matrix of full rank per layer."""
    num_experts: Annotated[int, Field(ge=1)] = 4
    """Experts of a layer of low rank, mixed by a softmax gate."""
    structure: Literal["stacked", "parallel"] = "stacked"
    """Whether the deep network reads the crosses, or the inputs beside them."""
    deep_units: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (128, 64)
    """Widths of the deep network's layers."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MlpConfig:
    """Plain MLP."""

    units: Annotated[tuple[Annotated[int, Field(gt=0)], ...], Field(min_length=1)] = (128, 64)
    """Widths of its layers."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NetworkConfig:
    """What scores an item, for interaction logs and impression logs alike."""

    model: Literal["dlrm", "dcn_v2", "mlp", "fm"] = "dlrm"
    """The model: dlrm, dcn_v2, or the small references mlp and fm."""
    embedding_dim: Annotated[int, Field(ge=2, le=1_024)] = 16
    """Width D of the embedding tables."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Share of the interactions dropped while training."""
    dlrm: DlrmConfig = DlrmConfig()
    """DLRM."""
    dcn_v2: DcnV2Config = DcnV2Config()
    """DCN-v2."""
    mlp: MlpConfig = MlpConfig()
    """Plain MLP."""


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

    network: NetworkConfig = NetworkConfig()
    """Model."""
    negatives: NegativesConfig = NegativesConfig()
    """Negatives."""
    clicks: ClickConfig = ClickConfig()
    """Impression logs, which have no lists: of the keys beside it, only network and num_threads apply to them."""
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
