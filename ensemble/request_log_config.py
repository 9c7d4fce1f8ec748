"""Configuration of the request log."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RequestLogConfig:
    """What is kept of requests: a sample of them with everything that led to their slates, as Parquet."""

    sample: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Share of the requests that are logged, chosen by their ids; 0 logs none."""
    folder: Annotated[str, Field(min_length=1)] = "requests"
    """Where the files are written; a relative path starts at the serve folder."""
    rows_per_file: Annotated[int, Field(ge=1)] = 10_000
    """Rows, one a user of a request, after which the next file is begun."""
    seconds_per_file: Annotated[float, Field(gt=0)] = 60.0
    """Seconds after which the next file is begun, and the most that a crash loses."""
    max_bytes: Annotated[int, Field(ge=1_000_000)] = 2_000_000_000
    """Bytes of all files together; beyond them the oldest are deleted."""
    queue_rows: Annotated[int, Field(ge=1)] = 2_000
    """Users whose requests may wait for the writer; those that find it full are not logged, and are counted."""
