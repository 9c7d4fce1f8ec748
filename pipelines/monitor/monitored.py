"""A window of a run's request log against its reference: what is measured, what is beyond a threshold, and why."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from ensemble.request_rows import LoggedRelease
from features.as_of import HISTORY
from pipelines.monitor.causes import Cause, causes_of
from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.exposure import Exposure, by_day, exposure, exposure_findings
from pipelines.monitor.feature_drift import FeatureDrift, feature_drift, without_any_attribute
from pipelines.monitor.findings import Check, Finding
from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.logged_requests import LoggedRequests
from pipelines.monitor.offline_features import OfflineFeatures
from pipelines.monitor.outcomes import Outcomes, outcome_findings, outcomes
from pipelines.monitor.reference import Reference
from pipelines.monitor.shift import share_grew
from pipelines.monitor.skew import Skew, skew_of
from pipelines.monitor.spike import item_spikes
from pipelines.monitor.traffic import Traffic, traffic, traffic_findings

SECONDS_PER_HOUR, SECONDS_PER_DAY = 3_600, 86_400
_NEARLY_ALL = 0.9
OK, FINDINGS, TOO_FEW = "ok", "findings", "too few requests"


@dataclass(frozen=True, eq=False)
class Monitored:
    """What was measured of a window."""

    status: str
    begin: float
    end: float
    """Unix seconds: the window is [begin, end)."""
    window: LoggedRequests
    reference: Reference
    drift: Sequence[FeatureDrift]
    skew: Skew
    traffic: Traffic
    shown: Exposure
    shown_before: Exposure
    """Of the reference."""
    shown_by_day: Sequence[tuple[str, Exposure]]
    clicks_by_day: Sequence[dict[str, Any]]
    """Of the whole log; empty without events."""
    causes: Sequence[Cause]
    seconds: float


def monitored(
    log: LoggedRequests,
    failed_B: np.ndarray,
    offline: OfflineFeatures,
    events: Sequence[LaterEvent],
    reference: Reference,
    config: MonitorConfig,
) -> Monitored:
    """Judge the newest window of a log.

    Args:
        log: of one release, in the order of time, to the end of the window.
        failed_B: sources that failed in each request.
        events: what the users did since the release; empty if nobody says.
    """
    started = time.perf_counter()
    end = float(log.received_B.max()) + 1
    begin = end - config.window_hours * SECONDS_PER_HOUR
    is_within = log.received_B >= begin
    window, earlier = log.taken(np.flatnonzero(is_within)), log.taken(np.flatnonzero(~is_within))
    is_enough = len(window) >= config.min_requests and window.num_users >= config.min_users
    shown = {
        name: exposure(requests, reference.item_share, offline.num_items)
        for name, requests in (("window", window), ("earlier", earlier), ("reference", reference.requests))
    }
    drift = feature_drift(reference.requests, window, offline)
    skew = skew_of(window, offline, events)
    parts = traffic(reference.requests, window, failed_B[is_within])
    clicks = outcomes(log, events, end, config) if events else None
    findings: list[Finding] = []
    if is_enough:
        findings += _join_findings(reference, window, offline, config)
        findings += _skew_findings(skew, config)
        findings += _drift_findings(drift, config)
        findings += _age_findings(window, end, config)
        findings += traffic_findings(parts, reference, window, config)
        findings += item_spikes(events, begin, end, reference, config)
        findings += exposure_findings(
            reference, shown["earlier"] if len(earlier) else None, window, offline.num_items, config
        )
        findings += outcome_findings(clicks, config) if clicks else []
    causes = causes_of(findings, offline.attributes)
    return Monitored(
        status=TOO_FEW if not is_enough else FINDINGS if causes else OK,
        begin=begin,
        end=end,
        window=window,
        reference=reference,
        drift=drift,
        skew=skew,
        traffic=parts,
        shown=shown["window"],
        shown_before=shown["reference"],
        shown_by_day=[
            (day, exposure(log.taken(rows), reference.item_share, offline.num_items)) for day, rows in by_day(log)
        ],
        clicks_by_day=_clicks_by_day(log, clicks) if clicks else [],
        causes=causes,
        seconds=time.perf_counter() - started,
    )


def failed_sources(table: pa.Table) -> np.ndarray:
    """[B] candidate sources that failed in each request of a log's table."""
    return table["num_failed_sources"].fill_null(0).to_numpy()


def release_of(version: Path) -> str:
    """The id that the request log has of an exported model."""
    return LoggedRelease.read(version, [], []).id


def document(found: Monitored) -> dict[str, Any]:
    """What was measured, for a report as JSON."""
    skew = asdict(found.skew) | {"lag_seconds": _lags(found.skew)}
    return {
        "status": found.status,
        "window": {
            "begin": _time(found.begin),
            "end": _time(found.end),
            "requests": len(found.window),
            "users": found.window.num_users,
        },
        "reference": {"origin": found.reference.origin, "requests": len(found.reference.requests)},
        "causes": [asdict(cause) for cause in found.causes],
        "features": [asdict(one) for one in found.drift],
        "skew": skew,
        "traffic": asdict(found.traffic),
        "shown": {"window": asdict(found.shown), "reference": asdict(found.shown_before)},
        "shown_by_day": {day: asdict(one) for day, one in found.shown_by_day},
        "clicks_by_day": list(found.clicks_by_day),
        "seconds": round(found.seconds, 3),
    }


def _join_findings(
    reference: Reference, window: LoggedRequests, offline: OfflineFeatures, config: MonitorConfig
) -> Iterator[Finding]:
    """Users who are known, and of whom every attribute is null at once."""
    if len(offline.attributes) < 2:
        return
    before, now = (float(without_any_attribute(requests, offline).mean()) for requests in (reference.requests, window))
    if share_grew(before, reference.requests.num_users, now, window.num_users, config.missing_share):
        text = f"{now:.1%} of the requests are for users without a single attribute, {before:.1%} in the reference"
        yield Finding("attributes_missing", "attributes", now - before, config.missing_share, text)


def _skew_findings(skew: Skew, config: MonitorConfig) -> Iterator[Finding]:
    if not skew.num_compared:
        return
    for name, number in skew.differing.items():
        share = number / skew.num_compared
        if share > config.skew_share:
            example = skew.examples[name][0]
            text = (
                f"{name} is not what the raw events give in {share:.1%} of {skew.num_compared:,} requests, e.g. of "
                f"user {example['user_id']} {example['logged']} in place of {example['recomputed']}"
            )
            yield Finding(_kind_of(skew, name), name, share, config.skew_share, text)
    lag = skew.lag_seconds / SECONDS_PER_HOUR
    is_behind = lag > config.max_lag_hours
    if is_behind.mean() > config.behind_share:
        text = (
            f"{is_behind.mean():.1%} of the requests lack events that are more than {config.max_lag_hours:g} hours "
            f"old; the oldest is {lag.max():.0f} hours old"
        )
        yield Finding("behind", "", float(is_behind.mean()), config.behind_share, text)


def _kind_of(skew: Skew, name: str) -> Check:
    """Where nearly all that differ were served as unseen, or as null, that is what is wrong with them."""
    nearly_all = _NEARLY_ALL * skew.differing[name]
    if skew.unseen.get(name, 0) > nearly_all:
        return "unseen"
    return "missing" if skew.missing.get(name, 0) > nearly_all else "skew"


def _drift_findings(drift: Sequence[FeatureDrift], config: MonitorConfig) -> Iterator[Finding]:
    for one in drift:
        unseen_limit = config.new_items if one.feature == HISTORY else config.unseen_share
        checks: tuple[tuple[Check, tuple[float, float], float, str], ...] = (
            ("missing", one.missing, config.missing_share, "is null"),
            ("unseen", one.unseen, unseen_limit, "has a value that the vocabulary lacks"),
        )
        for check, (before, now), limit, text in checks:
            if share_grew(before, one.sizes[0], now, one.sizes[1], limit):
                said = f"{one.name} {text} in {now:.1%} of the requests, in {before:.1%} of the reference"
                yield Finding(check, one.name, now - before, limit, said)
        if one.shift and one.shift.exceeds(config.psi, config.ks):
            said = f"{one.name}: PSI {one.shift.psi:.2f}"
            if one.shift.ks is not None:
                said += f", KS {one.shift.ks:.2f}, mean {one.shift.before:.3f}, now {one.shift.now:.3f}"
            yield Finding("shift", one.name, one.shift.psi, config.psi, said)


def _age_findings(window: LoggedRequests, end: float, config: MonitorConfig) -> Iterator[Finding]:
    days = (end - float(window.as_of_B.max())) / SECONDS_PER_DAY
    if days > config.max_release_days:
        text = f"the release knows the log up to {days:.0f} days ago"
        yield Finding("old_release", "", days, config.max_release_days, text)


def _clicks_by_day(log: LoggedRequests, found: Outcomes) -> list[dict[str, Any]]:
    days = []
    for day, rows in by_day(log):
        reward_Bk = found.reward_Bk[rows]
        is_known = ~np.isnan(reward_Bk)
        if not is_known.any():
            continue
        expected = None
        if found.expected_Bk is not None:
            expected = float(np.nansum(np.where(is_known, found.expected_Bk[rows], np.nan)))
        clicks, places = float(np.nansum(reward_Bk)), int(is_known.sum())
        days.append({"day": day, "places": places, "clicks": clicks, "ctr": clicks / places, "expected": expected})
    return days


def _lags(skew: Skew) -> dict[str, float]:
    """A few quantiles of how far requests are behind."""
    lag = skew.lag_seconds if len(skew.lag_seconds) else np.zeros(1)
    return {f"p{share}": float(np.percentile(lag, share)) for share in (50, 90, 99, 100)}


def _time(seconds: float) -> str:
    return str(np.datetime64(int(seconds), "s"))
