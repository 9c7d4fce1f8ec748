"""What the parts of the request path did: what replies came of, what sources proposed, what filters kept away."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.findings import Finding
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.reference import Reference
from pipelines.monitor.shift import Sample, Shift, number_shift, share_grew

# B requests
_STANDARD_ERRORS = 4.0
_UNKNOWN, _DEGRADED = ("fallback",), ("degraded", "cached")


@dataclass(frozen=True)
class SourceUse:
    """A candidate source, in the reference and in the window."""

    slate_share: tuple[float, float]
    """Share of the slates' items that it had proposed."""
    silent_share: tuple[float, float]
    """Share of requests to which it proposed nothing."""


@dataclass(frozen=True)
class Traffic:
    """What the window's requests came to."""

    replies: Mapping[str, tuple[float, float]]
    """Reply's source -> share of the requests, in the reference and in the window."""
    sources: Mapping[str, SourceUse]
    removed: Mapping[str, tuple[float, float]]
    """Filter -> items kept from a user, mean over the requests."""
    scores: Mapping[str, Shift | None]
    """Of the best candidate, the slate's mean and the candidates' mean."""
    failed_share: float
    """Share of the window's requests in which a source failed."""


def traffic(reference: LoggedRequests, window: LoggedRequests, num_failed_B: np.ndarray) -> Traffic:
    """Compare what the parts did.

    Args:
        num_failed_B: sources that failed, of each request of the window.
    """
    sides = reference, window
    names = dict.fromkeys([*reference.source, *window.source])
    return Traffic(
        replies={name: _pair(float(np.mean([one == name for one in side.source])) for side in sides) for name in names},
        sources={
            name: SourceUse(
                _pair(_mean(side.proposed_share.get(name)) for side in sides),
                _pair(_silent(side.num_proposed.get(name)) for side in sides),
            )
            for name in dict.fromkeys([*reference.num_proposed, *window.num_proposed])
        },
        removed={
            name: _pair(_mean(side.removed.get(name)) for side in sides)
            for name in dict.fromkeys([*reference.removed, *window.removed])
        },
        scores={
            name: number_shift(*(_of_known(side, values(side)) for side in sides))
            for name, values in {
                "best candidate": lambda side: side.top_score_B,
                "slate, mean": _slate_mean,
                "candidates, mean": lambda side: side.mean_score_B,
            }.items()
        },
        failed_share=float((num_failed_B > 0).mean()) if len(num_failed_B) else 0.0,
    )


def traffic_findings(
    found: Traffic, reference: Reference, window: LoggedRequests, config: MonitorConfig
) -> Iterator[Finding]:
    """What is beyond the thresholds. The candidates' mean is shown only: nobody sees the candidates."""
    before, now = (sum(_share(found.replies, name)[side] for name in _UNKNOWN) for side in (0, 1))
    expected = max(before, reference.first_visits)
    sizes = len(reference.requests), len(window)
    if share_grew(expected, sizes[0], now, sizes[1], config.unknown_users):
        yield Finding(
            "unknown_users",
            "ids",
            now - expected,
            config.unknown_users,
            f"{now:.1%} of the requests are for users whom the store does not have, {expected:.1%} were to be expected",
        )
    degraded = sum(_share(found.replies, name)[1] for name in _DEGRADED)
    if degraded > config.degraded:
        yield Finding(
            "degraded",
            "store",
            degraded,
            config.degraded,
            f"{degraded:.1%} of the requests were answered without the store, or from an earlier slate",
        )
    for name, use in found.sources.items():
        for what, (old, new) in (
            ("share of the slates", use.slate_share),
            ("share of empty proposals", use.silent_share),
        ):
            if abs(new - old) > config.source_share:
                yield Finding(
                    "source", name, abs(new - old), config.source_share, f"{what} of {name}: {old:.1%}, now {new:.1%}"
                )
    for name, (old, new) in found.removed.items():
        ratio = (new + 1) / (old + 1)
        if max(ratio, 1 / ratio) > config.removed_ratio and _differs(reference.requests, window, name):
            text = f"the filter {name} keeps {new:.1f} items from a user, {old:.1f} in the reference"
            yield Finding("filter", name, max(ratio, 1 / ratio), config.removed_ratio, text)
    for name in ("best candidate", "slate, mean"):
        shift = found.scores[name]
        if shift and shift.exceeds(config.psi, config.ks):
            text = (
                f"scores ({name}): mean {shift.before:.3f}, now {shift.now:.3f}; PSI {shift.psi:.2f}, KS {shift.ks:.2f}"
            )
            yield Finding("prediction", name, shift.psi, config.psi, text)


def _slate_mean(requests: LoggedRequests) -> np.ndarray:
    return np.array([np.mean(scores) if len(scores) else math.nan for scores in requests.slate_scores])


def _of_known(requests: LoggedRequests, values_B: np.ndarray) -> Sample:
    return Sample(values_B, np.array(requests.user_id, object)).where(requests.is_known_B)


def _mean(values_B: np.ndarray | None) -> float:
    return float(np.nanmean(values_B)) if values_B is not None and not np.isnan(values_B).all() else 0.0


def _silent(num_B: np.ndarray | None) -> float:
    return 0.0 if num_B is None else _mean(np.where(np.isnan(num_B), np.nan, num_B == 0))


def _differs(reference: LoggedRequests, window: LoggedRequests, name: str) -> bool:
    sides = [
        values[~np.isnan(values)] for side in (reference, window) if (values := side.removed.get(name)) is not None
    ]
    if len(sides) < 2 or min(map(len, sides)) < 2:
        return len(sides) > 0
    error = math.sqrt(sum(float(values.var(ddof=1)) / len(values) for values in sides))
    return abs(float(sides[0].mean() - sides[1].mean())) > _STANDARD_ERRORS * error


def _share(shares: Mapping[str, tuple[float, float]], name: str) -> tuple[float, float]:
    return shares.get(name, (0.0, 0.0))


def _pair(values: Iterator[float]) -> tuple[float, float]:
    before, now = values
    return before, now
