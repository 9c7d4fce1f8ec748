"""What was measured as Prometheus metrics, for the textfile collector of the node exporter."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

from prometheus_client import CollectorRegistry, Gauge, write_to_textfile

from pipelines.monitor.causes import Kind
from pipelines.monitor.monitored import FINDINGS, OK, TOO_FEW, Monitored

METRICS = {
    "cascade_monitor_status": ("1 for the status of the last run of the monitor", ["status"]),
    "cascade_monitor_cause": ("Causes named in the window, by kind", ["kind"]),
    "cascade_monitor_requests": ("Requests of the window", []),
    "cascade_monitor_window_end_seconds": ("Unix time at which the window ends", []),
    "cascade_monitor_feature_psi": ("Population stability index against the reference", ["feature"]),
    "cascade_monitor_feature_ks": ("Kolmogorov-Smirnov statistic against the reference", ["feature"]),
    "cascade_monitor_feature_missing_share": ("Share of requests in which the feature is null", ["feature"]),
    "cascade_monitor_feature_unseen_share": ("Share of requests with an unseen category", ["feature"]),
    "cascade_monitor_feature_skew_share": ("Share of requests in which it is not what the events give", ["feature"]),
    "cascade_monitor_skew_share": ("Share of requests with a feature that is not what the events give", []),
    "cascade_monitor_behind_share": ("Share of requests that lack events of their user", []),
    "cascade_monitor_lag_seconds_max": ("Age of the oldest event that a request lacks", []),
    "cascade_monitor_scores_psi": ("Population stability index of the scores", ["scores"]),
    "cascade_monitor_reply_share": ("Share of the requests by the reply's source", ["source"]),
    "cascade_monitor_source_slate_share": ("Share of the slates that a candidate source had proposed", ["source"]),
    "cascade_monitor_removed_items": ("Items that a filter keeps from a user, mean", ["filter"]),
    "cascade_monitor_coverage_share": ("Share of the catalogue that was shown", []),
    "cascade_monitor_gini": ("Gini coefficient of how often items were shown", []),
    "cascade_monitor_top_item_share": ("The most shown item's share of all places", []),
    "cascade_monitor_novelty_bits": ("Mean of -log2 of a shown item's share of the reference's events", []),
    "cascade_monitor_repetition_share": ("Mean share of a slate that was in the user's slate before", []),
    "cascade_monitor_click_share": ("Clicks over places, of the newest day whose events are known", []),
    "cascade_monitor_click_ratio": ("Clicks over what the scores promise, of the same day", []),
}
"""Name -> help and labels."""


def write_prometheus(found: Monitored, path: Path) -> None:
    """Write the file whole or not at all; a value that is not known is left out."""
    registry = CollectorRegistry()
    gauges = {name: Gauge(name, text, labels, registry=registry) for name, (text, labels) in METRICS.items()}

    def put(name: str, value: float | None, *labels: str) -> None:
        if value is not None and value == value:
            gauge = gauges[f"cascade_monitor_{name}"]
            (gauge.labels(*labels) if labels else gauge).set(value)

    for status in (OK, FINDINGS, TOO_FEW):
        put("status", float(found.status == status), status)
    for kind in get_args(Kind):
        put("cause", float(sum(cause.kind == kind for cause in found.causes)), kind)
    put("requests", len(found.window))
    put("window_end_seconds", found.end)
    for one in found.drift:
        put("feature_psi", one.shift and one.shift.psi, one.name)
        put("feature_ks", one.shift and one.shift.ks, one.name)
        put("feature_missing_share", one.missing[1], one.name)
        put("feature_unseen_share", one.unseen[1], one.name)
    compared = max(found.skew.num_compared, 1)
    for feature in dict.fromkeys(one.feature for one in found.drift):
        put("feature_skew_share", found.skew.differing.get(feature, 0) / compared, feature)
    put("skew_share", found.skew.num_differing / compared)
    put("behind_share", found.skew.num_behind / compared)
    put("lag_seconds_max", float(found.skew.lag_seconds.max(initial=0)))
    for name, shift in found.traffic.scores.items():
        put("scores_psi", shift and shift.psi, name)
    for name, (_, now) in found.traffic.replies.items():
        put("reply_share", now, name)
    for name, use in found.traffic.sources.items():
        put("source_slate_share", use.slate_share[1], name)
    for name, (_, now) in found.traffic.removed.items():
        put("removed_items", now, name)
    put("coverage_share", found.shown.coverage)
    put("gini", found.shown.gini)
    put("top_item_share", found.shown.top_share)
    put("novelty_bits", found.shown.novelty)
    put("repetition_share", found.shown.repetition)
    if found.clicks_by_day:
        newest = found.clicks_by_day[-1]
        put("click_share", newest["ctr"])
        put("click_ratio", newest["clicks"] / newest["expected"] if newest["expected"] else None)
    write_to_textfile(str(path), registry)
