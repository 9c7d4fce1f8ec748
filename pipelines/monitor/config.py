"""Configuration of monitoring: what is judged, and how far it may be from the reference."""

from __future__ import annotations

from typing import Annotated

from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass

Share = Annotated[float, Field(ge=0, le=1)]


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class MonitorConfig:
    """What `cascade monitor` judges, and the thresholds beyond which it exits with status 3. A difference counts only
    if it is also more than chance does with as many requests."""

    window_hours: Annotated[float, Field(gt=0)] = 24.0
    """Requests of so many hours are judged; they end with the newest logged one, or at --until."""
    trend_days: Annotated[float, Field(gt=0)] = 14.0
    """Days of the log that are shown by day; those before the window say what clicks are to be expected."""
    min_requests: Annotated[int, Field(ge=2)] = 100
    """With fewer requests in the window nothing is judged, and the exit status is 4."""
    min_users: Annotated[int, Field(ge=2)] = 30
    """The same for users."""
    reference_days: Annotated[float, Field(gt=0)] = 28.0
    """Days of the log before the features' moment whose visits are the reference."""
    reference_requests: Annotated[int, Field(ge=100)] = 2_000
    """Visits of the reference, drawn at random where there are more."""
    psi: Annotated[float, Field(gt=0)] = 0.25
    """Population stability index of a feature or of scores. 0.25 is another population (Siddiqi, 2006)."""
    ks: Annotated[float, Field(gt=0, le=1)] = 0.2
    """Kolmogorov-Smirnov statistic of a number: the largest difference of the two cumulative shares."""
    missing_share: Share = 0.05
    """Growth of the share of users for whom a feature is null or unknown."""
    unseen_share: Share = 0.05
    """Growth of the share of users with a category that the vocabulary does not have."""
    new_items: Share = 0.2
    """Growth of the share of users whose newest interaction is with an item that the models do not know: some items are
    always new between two refreshes."""
    unknown_users: Share = 0.2
    """Growth of the share of requests for users whom the store does not have, over that of first visits."""
    degraded: Share = 0.01
    """Share of requests answered without the store, or from an earlier slate."""
    source_share: Share = 0.2
    """Change of a candidate source's share of the slates' items, or of the users to whom it proposed nothing."""
    removed_ratio: Annotated[float, Field(gt=1)] = 3.0
    """Factor between the items that a filter keeps from a user now and in the reference."""
    skew_share: Share = 0.01
    """Share of requests with a feature that is not what the raw events give."""
    max_lag_hours: Annotated[float, Field(gt=0)] = 24.0
    """Hours by which the features of a request may be behind the events."""
    behind_share: Share = 0.05
    """Share of the requests that may be behind by more."""
    max_release_days: Annotated[float, Field(gt=0)] = 60.0
    """Days between the features' moment and the newest request."""
    spike_share: Share = 0.04
    """Growth of one item's share of the events."""
    shown_share: Share = 0.3
    """Growth of one item's share of the slates."""
    coverage_ratio: Annotated[float, Field(gt=1)] = 2.0
    """Factor by which fewer different items may be shown than the reference shows, in as many slates."""
    repetition: Share = 0.25
    """Growth of the share of a slate that was in the user's slate before, against the days before the window."""
    ctr_ratio: Annotated[float, Field(gt=1)] = 1.5
    """Factor between the clicks on what is shown in the window and in the days before."""
    calibration_ratio: Annotated[float, Field(gt=1)] = 1.5
    """Factor between the clicks and what the scores promise, learned from the days before."""
    click_hours: Annotated[float, Field(gt=0)] = 24.0
    """Hours after a request within which an event with a shown item counts as its click."""
