"""A finding: one number that is further from its reference than its threshold, and than chance."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Check = Literal[
    "shift",
    "missing",
    "unseen",
    "attributes_missing",
    "unknown_users",
    "degraded",
    "skew",
    "behind",
    "old_release",
    "prediction",
    "source",
    "filter",
    "item_spike",
    "shown_spike",
    "coverage",
    "repetition",
    "ctr",
    "calibration",
]


@dataclass(frozen=True)
class Finding:
    """What was measured, and what it should have stayed under."""

    check: Check
    subject: str
    """A feature, source, filter or item; empty if the check has none."""
    now: float
    limit: float
    text: str
    """For people, with the numbers."""
