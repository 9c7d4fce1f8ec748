"""Every metric of Cascade's own, by name: its kind, its labels and what it says. docs/serving.md lists the same.

A label has few values, and none of them comes from a caller. `model` and `version` are added when they are published,
and `instance` to gauges.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Metric:
    """Args:
    kind: a counter only grows; a histogram is published as counters with the label `le`; a gauge is what it was last.
    about: one sentence.
    labels: names of its labels.
    bounds: upper bounds of a histogram's buckets, ascending, without infinity.
    """

    kind: Literal["counter", "gauge", "histogram"]
    about: str
    labels: tuple[str, ...] = ()
    bounds: tuple[float, ...] = ()


_SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0)
_NUMBERS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0)

METRICS: dict[str, Metric] = {
    "cascade_requests_total": Metric(
        "counter", "Requests by what came of them: ok, refused, failed or rescued.", ("outcome",)
    ),
    "cascade_errors_total": Metric(
        "counter", "Requests answered with an error, by its type and the stage that raised it.", ("kind", "stage")
    ),
    "cascade_users_total": Metric("counter", "Users answered, by the source of their slate.", ("source",)),
    "cascade_proposed_items_total": Metric(
        "counter", "Items that a candidate source proposed, before the merge.", ("source",)
    ),
    "cascade_stage_seconds": Metric("histogram", "Seconds of one stage in one run of the path.", ("stage",), _SECONDS),
    "cascade_run_seconds": Metric("histogram", "Seconds of one run of the path.", (), _SECONDS),
    "cascade_run_users": Metric("histogram", "Users of one run of the path.", (), _NUMBERS),
    "cascade_run_requests": Metric("histogram", "Requests joined into one run of the path.", (), _NUMBERS),
    "cascade_source_failures_total": Metric(
        "counter", "Runs in which a candidate source failed and was done without, by its name.", ("source",)
    ),
    "cascade_removed_total": Metric("counter", "Items that a filter kept from users, by its name.", ("filter",)),
    "cascade_stock_reads_total": Metric(
        "counter", "Times that a changed stock table was read again: used, or refused.", ("outcome",)
    ),
    "cascade_request_log_rows_total": Metric("counter", "Rows of the request log in whole files."),
    "cascade_request_log_dropped_rows_total": Metric(
        "counter", "Rows of the request log that were lost, by what was full or failed.", ("reason",)
    ),
    "cascade_events_total": Metric(
        "counter",
        "Live events by status: accepted, duplicate, unknown_item, rejected or failed.",
        ("status",),
    ),
    "cascade_event_stores_behind": Metric("gauge", "Versions whose online stores lack accepted events."),
    "cascade_part_troubles_total": Metric(
        "counter",
        "Runs that did without a part of the path: it failed, was slow, was skipped or counts as gone.",
        ("part", "trouble"),
    ),
    "cascade_recalled_users_total": Metric(
        "counter", "Users served with what was known of them a short while ago, since the store could not be read."
    ),
    "cascade_log_lines_dropped_total": Metric("counter", "Lines of the JSON log that the disk did not take."),
    "cascade_metric_series_refused_total": Metric(
        "counter", "Values counted under `other`, because a metric had too many label values.", ("metric",)
    ),
}
