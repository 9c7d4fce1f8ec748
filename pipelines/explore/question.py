"""What the page asks: a request of one user, and what is supposed."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from ensemble.request import DEFAULT_K, MAX_ALLOW, MAX_EXCLUDE, MAX_K, Request
from features.errors import CascadeError

MAX_CLICKS = 100
MAX_RULES = 50
Id = Annotated[str, Field(min_length=1)]


class ExploreError(CascadeError, ValueError):
    """A question that cannot be answered as it stands: what was expected, and what came."""


class UnknownError(ExploreError):
    """It names something that the run does not have."""


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid", strict=True))
class Question:
    """A request, and what is supposed besides."""

    user: Id
    run: Annotated[int, Field(ge=0, le=1)] = 0
    """Which of the runs: 1 is that of --against."""
    item: Id | None = None
    """The item that is asked about."""
    k: Annotated[int, Field(ge=1, le=MAX_K)] = DEFAULT_K
    exclude: Annotated[list[Id], Field(max_length=MAX_EXCLUDE)] = Field(default_factory=list)
    allow: Annotated[list[Id], Field(max_length=MAX_ALLOW)] = Field(default_factory=list)
    seed: Annotated[int, Field(ge=0)] = 0
    temperature: float | None = None
    diversity: float | None = None
    timestamp: int | None = None
    rules: Annotated[list[str], Field(max_length=MAX_RULES)] | None = None
    """In place of those that are configured; None for these."""
    clicks: Annotated[list[Id], Field(max_length=MAX_CLICKS)] = Field(default_factory=list)
    """Items that the user is to have had, the oldest first."""

    @classmethod
    def read(cls, body: bytes) -> Question:
        """Raises: ExploreError naming every field that cannot be used."""
        try:
            return _QUESTION.validate_json(body)
        except ValidationError as error:
            wrong = (f"{'.'.join(map(str, one['loc'])) or 'body'}: {one['msg']}" for one in error.errors()[:5])
            raise ExploreError("; ".join(wrong)) from error

    @property
    def request(self) -> Request:
        """Raises: RequestError."""
        return Request.of(
            [self.user],
            k=self.k,
            exclude=[self.exclude],
            allow=[self.allow],
            timestamp=self.timestamp,
            seed=self.seed,
            temperature=self.temperature,
            diversity=self.diversity,
        )


_QUESTION = TypeAdapter(Question)
