"""Cut-offs and sizes of an evaluation."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EvaluationConfig:
    """Evaluation of the served pipeline, and of its candidates."""

    slate_k: Annotated[int, Field(ge=1)] = 10
    """Items of a slate."""
    candidate_k: Annotated[int, Field(ge=1)] = 100
    """Candidates that count, the first ones; at least slate_k."""
    ks: tuple[Annotated[int, Field(ge=1)], ...] = (20, 50)
    """Cut-offs of recall besides slate_k and candidate_k, in items."""
    num_bootstrap: Annotated[int, Field(ge=1)] = 1000
    """Resamples of the users behind each interval."""
    level: Annotated[float, Field(gt=0, lt=1)] = 0.95
    """Probability inside an interval."""
    max_users: Annotated[int, Field(ge=0)] = 0
    """Test users, a seeded sample; 0 for all."""
    max_tuning_users: Annotated[int, Field(ge=0)] = 2000
    """Validation users that judge a baseline's setting, a seeded sample; 0 for all."""
    batch_users: Annotated[int, Field(ge=1)] = 64
    """Users asked for in one call."""

    def __post_init__(self) -> None:
        if self.slate_k > self.candidate_k:
            raise ValueError(f"slate_k ({self.slate_k}) must be at most candidate_k ({self.candidate_k})")

    @property
    def recall_ks(self) -> list[int]:
        """All cut-offs of recall, ascending."""
        return sorted({*self.ks, self.slate_k, self.candidate_k})
