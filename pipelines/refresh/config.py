"""What a new run must keep to, to take the place of the live one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

GuardKind = Literal["quality", "calibration", "latency", "coverage", "drift"]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class RefreshConfig:
    """Guards of `cascade refresh`."""

    max_quality_loss: Annotated[float, Field(ge=0, lt=1)] = 0.01
    """Allowed loss, as a share of what the live run reaches: in NDCG@slate_k of slates, or AUC and log loss of
    impressions."""
    quality_end: Literal["upper", "lower"] = "upper"
    """End of the paired difference's interval, as the better and the worse one, that the allowed loss is held against.
    upper: what is shown to be worse is refused. lower: what is not shown to be as good is refused too; with few test
    users that is almost everything."""
    max_miscalibration: Annotated[float, Field(gt=0)] = 0.1
    """How far expected clicks may be from those that came: 0.1 is a ratio from 1 / 1.1 to 1.1. Further is allowed where
    the live run is as far off. Impressions only."""
    max_latency_ratio: Annotated[float, Field(gt=0)] = 1.5
    """Largest median time of a request in process, over that of the live run."""
    num_latency_requests: Annotated[int, Field(ge=10)] = 100
    """Requests, of a user each, that both runs are asked in turn for it."""
    min_coverage_ratio: Annotated[float, Field(ge=0)] = 0.7
    """Least number of different items in the slates of all test users, over that of the live run."""
    drift_stops: Literal["error", "warning"] = "error"
    """Least severity at which a difference between the new logs and the earlier ones stops a refresh; what is an error
    cannot be made features of at all."""
    max_early_share: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of the new interactions that may be from before the end of the live run's logs."""
    must_be_measured: tuple[GuardKind, ...] = ("quality", "drift")
    """Guards that stop a refresh where they cannot be measured."""
