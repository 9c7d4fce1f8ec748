"""What the retrieval and index stages can be told.

They stand apart from the code they configure because that imports torch and Merlin, which takes seconds: a mistake in
a configuration is reported at once.
"""

from __future__ import annotations

from typing import Annotated, Literal

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
    """Temperature of the softmax over cosine similarities, or the initial one if it is learned."""
    learned_temperature: bool = True
    """Learn the temperature with the weights."""
    history: Literal["pooled", "attention"] = "pooled"
    """How a user's history becomes one vector: the mean of its items, or attention over them with their places and the
    time gaps between them."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class SourcesConfig:
    """Candidate sources and their merge.

    A quota is the most items that a source proposes to a user; 0 leaves the source out.
    """

    two_tower: Annotated[int, Field(ge=1, le=10_000)] = 300
    """Quota of the items nearest to the user's query vector."""
    new_items: Annotated[int, Field(ge=0, le=10_000)] = 50
    """Quota of the nearest among the items that nobody has had so far."""
    recent_popularity: Annotated[int, Field(ge=0, le=10_000)] = 300
    """Quota of what people like the user took of late."""
    category_popularity: Annotated[int, Field(ge=0, le=10_000)] = 300
    """Quota of what sells of late in the categories that the user likes; of no effect without attributes of items."""
    covisitation: Annotated[int, Field(ge=0, le=10_000)] = 300
    """Quota of what users had who had the same items."""
    repeat_purchase: Annotated[int, Field(ge=0, le=10_000)] = 100
    """Quota of what the user had before; of no effect with etl.drop_seen."""
    similar_content: Annotated[int, Field(ge=0, le=10_000)] = 300
    """Quota of the items that resemble those the user had, by attributes and text; of no effect without them."""
    linear: Annotated[int, Field(ge=0, le=10_000)] = 300
    """Quota of the linear item-item model (EASE)."""
    linear_max_items: Annotated[int, Field(ge=2, le=50_000)] = 4_096
    """Items of the linear model, those with the most interactions. Its matrix takes 4 bytes times their square, and
    its time grows with their cube."""
    new_item_share: Annotated[float, Field(ge=0, le=0.5)] = 0.01
    """Share of the candidates that new items have to themselves, as long as there are any."""
    max_users: Annotated[int, Field(ge=10)] = 5_000
    """Validation users, a seeded sample, on whom settings are chosen and the merge is learned."""
    max_tuning_users: Annotated[int, Field(ge=10)] = 1_000
    """Those of them, a seeded sample, on whom a source's settings are tried."""
    max_tuning_interactions: Annotated[int, Field(ge=1_000)] = 2_000_000
    """Interactions, those of sampled users, on which a source's settings are tried; the chosen ones are fitted on
    all."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RetrievalConfig:
    """Candidate model."""

    two_tower: TwoTowerConfig = TwoTowerConfig()
    """Encoder."""
    sources: SourcesConfig = SourcesConfig()
    """Candidate sources."""
    batch_size: Annotated[int, Field(ge=2)] = 512
    """Examples per step."""
    num_scored_items: Annotated[int, Field(ge=2)] = 768
    """Items scored per step, shared by its examples: their own items, the rest drawn from the catalogue."""
    num_hard: Annotated[int, Field(ge=0)] = 0
    """Draws per step, on top of num_scored_items, from the items that the model ranks too high; of no effect where the
    whole catalogue is scored."""
    hard_every: Annotated[int, Field(ge=1)] = 500
    """Steps after which the hard items are searched for anew, and at the beginning of every epoch but the first."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    """Share of the softmax's target that is spread evenly over the scored items."""
    learning_rate: Annotated[float, Field(gt=0)] = 2e-3
    """Step size of AdamW, for all but the embedding tables."""
    table_learning_rate: Annotated[float, Field(gt=0)] = 0.03
    """Step size of row-wise Adagrad, for the embedding tables."""
    weight_decay: Annotated[float, Field(ge=0)] = 1e-4
    """Decoupled weight decay of AdamW."""
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
    checkpoint_minutes: Annotated[float, Field(gt=0)] = 10.0
    """Minutes between checkpoints within an epoch; there is one after every epoch besides."""
    warm_start: bool = False
    """Whether each training of the two-tower model begins with weights of the run's earlier one, the newest that have
    not seen what it is judged by, if the vocabulary has only grown since, as after an append. The result depends on
    that model then."""
    warm_start_epochs: Annotated[int, Field(ge=1)] = 2
    """Most passes of a training that begins so."""
    bf16: Literal["auto", "off"] = "off"
    """auto: the towers compute in bfloat16 where the processor multiplies matrices of it; tables, scores and loss stay
    in float32."""
    num_proposals: Annotated[int, Field(ge=1)] = 200
    """Candidates of each list from which the ranker learns."""
    num_origins: Annotated[int, Field(ge=1)] = 2
    """Moments at which those lists are made: the start of the validation part, and earlier ones, each as far before the
    next as the validation part is long. For each earlier one the two-tower model is trained once more, on what came
    before it."""
    max_proposed_users: Annotated[int, Field(ge=1)] = 5_000
    """Users, a seeded sample, for whom lists are made at each of those moments."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of the training. Its result depends on their number, so it does not follow the machine; and two that
    wait for each other are ten times slower than one where another process wants the core."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class IndexConfig:
    """Index over item vectors."""

    kind: Literal["auto", "flat", "hnsw", "ivf_pq"] = "auto"
    """How it searches. auto: exactly up to exact_up_to items; beyond, the first of ivf_pq and hnsw that reaches the
    recall target. A catalogue below a thousand items is searched exactly whatever stands here."""
    exact_up_to: Annotated[int, Field(ge=0)] = 20_000
    """Largest catalogue that auto searches exactly."""
    recall_target: Annotated[float, Field(gt=0, le=1)] = 0.98
    """Share of the true 100 best items that a search must find, measured against exact search; breadth grows until
    it does."""
    num_queries: Annotated[int, Field(ge=2)] = 1_000
    """Users whose query vectors are searched for: half of them to set the breadth, half to measure the recall."""
    hnsw_links: Annotated[int, Field(ge=4, le=128)] = 16
    """Links per item of the HNSW graph; its lowest layer has twice as many."""
    hnsw_ef_construction: Annotated[int, Field(ge=8)] = 100
    """Breadth of the search that builds the graph."""
    num_threads: Annotated[int, Field(ge=1)] = 1
    """CPU threads of the build. Only with one does an HNSW graph of equal vectors give an equal file."""
