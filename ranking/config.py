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
    tables: Literal["auto", "fused", "plain"] = "auto"
    """Who trains the tables of impression logs: fbgemm's fused ones, which step within the backward pass, or plain ones
    beside an optimizer, with equal results; auto fuses large tables where fbgemm loads."""
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
    """Lists of the ranker, and their negatives."""

    num_negatives: Annotated[int, Field(ge=1)] = 100
    """Negatives of a list, drawn anew for each step from what retrieval proposed and the user did not take."""
    max_lists: Annotated[int, Field(ge=10)] = 4_000
    """Lists, a seeded sample."""


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
    clip_norm: Annotated[float, Field(ge=0)] = 0.0
    """Longest gradient of all MLPs' weights together, longer ones are shortened to it; 0 for any length."""
    warmup_epochs: Annotated[float, Field(ge=0)] = 0.0
    """Passes, or a part of one, over which both step sizes grow from almost 0 to their full value."""
    decay: Literal["constant", "linear", "cosine"] = "constant"
    """How both step sizes fall after that, until max_epochs are over."""
    final_rate_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Share of the step sizes that is left then."""
    bf16: Literal["auto", "off"] = "off"
    """auto: the network computes in bfloat16 where the processor multiplies matrices of it; tables, optimizers and loss
    stay in float32."""
    max_epochs: Annotated[int, Field(ge=1)] = 10
    """Most passes over the train part."""
    patience: Annotated[int, Field(ge=1)] = 2
    """Passes without a better log loss on the valid part before training stops."""
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between checkpoints within an epoch; there is one after every epoch besides."""
    warm_start: bool = False
    """Whether training begins with the weights of the run's earlier ranker, if the vocabulary has only grown since, as
    after an append. The result depends on that ranker then."""
    warm_start_rows: Literal["new", "all"] = "new"
    """What it trains on then: the rows of the train part that the earlier ranker has not seen, or all of them."""
    warm_start_epochs: Annotated[int, Field(ge=1)] = 1
    """Most passes over these rows."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CompactConfig:
    """Compact form of the exported ranker."""

    tables: Literal["fp32", "fp16", "bf16", "int8"] = "fp32"
    """How embedding tables are stored; int8 has a scale for each row. They are widened behind the look-up."""
    layers: Literal["fp32", "int8"] = "fp32"
    """What the larger layers compute in; int8 has a scale for each output, and is for wide networks: a processor with
    VNNI or AMX multiplies it several times as fast."""
    max_auc_loss: Annotated[float, Field(ge=0, lt=1)] = 5e-4
    """Most that the AUC on held-out data may fall by; more is an error."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RankingConfig:
    """Ranking model."""

    network: NetworkConfig = NetworkConfig()
    """Model."""
    negatives: NegativesConfig = NegativesConfig()
    """Negatives."""
    clicks: ClickConfig = ClickConfig()
    """Impression logs, which have no lists: of the keys beside it, only network, calibration and num_threads apply to
    them."""
    calibration: Literal["none", "platt", "isotonic"] = "platt"
    """What makes probabilities of the logits of impressions, fitted on the valid part: nothing but a sigmoid, Platt
    scaling or isotonic regression."""
    loss: Literal["lambdarank", "listwise", "pairwise", "bce"] = "lambdarank"
    """Loss of a list: pairs weighted by what they change in NDCG@10, a softmax over the list, pairs, or each item by
    itself, with probabilities corrected for the negatives left out."""
    batch_size: Annotated[int, Field(ge=1)] = 16
    """Lists per step."""
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    """Step size of AdamW."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2
    """Decoupled weight decay."""
    max_epochs: Annotated[int, Field(ge=1)] = 20
    """Most passes over the lists of the users who are not held out."""
    max_steps: Annotated[int, Field(ge=1)] = 600
    """Most steps; of many lists fewer passes are made, at least one."""
    held_out_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the users held out at a time, each user once; their lists choose the number of epochs, and how far the
    ranker may depart from retrieval's order."""
    averaging: Annotated[float, Field(ge=0, lt=1)] = 0.99
    """Decay per step of the moving average of the weights, which is the model that is kept."""
    compact: CompactConfig = CompactConfig()
    """Compact form."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of the training; its result depends on their number, so it does not follow the machine."""
