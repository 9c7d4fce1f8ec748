"""What a serving process counts: `metrics.count`, `metrics.observe` and `metrics.gauge`, from any thread.

A call costs about a microsecond; nothing leaves the process here. `MetricsPublisher` brings the totals to Triton's
metrics endpoint once a second. A new metric is a row in `metrics_table.py` and one in docs/serving.md.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from threading import Lock
from typing import NamedTuple

from ensemble.metrics_table import METRICS, Metric

MAX_SERIES = 200
"""Most label combinations of one metric; those that come later are counted under `other`."""
OTHER = "other"


class Series(NamedTuple):
    """One line of the metrics endpoint."""

    name: str
    about: str
    is_gauge: bool
    labels: tuple[tuple[str, str], ...]


class Metrics:
    """Totals since the start of the process, of the metrics in METRICS."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers: dict[str, dict[tuple[str, ...], float]] = {name: {} for name in METRICS}
        self._buckets: dict[str, dict[tuple[str, ...], list[float]]] = {name: {} for name in METRICS}

    def count(self, name: str, amount: float = 1, /, **labels: str) -> None:
        """Add to a counter; 0 makes it known.

        Raises: ValueError if the table has no such counter, or other labels.
        """
        metric = _metric(name, "counter", labels)
        with self._lock:
            series = self._numbers[name]
            key = self._key(name, metric, labels, series)
            series[key] = series.get(key, 0) + amount

    def gauge(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge.

        Raises: ValueError if the table has no such gauge, or other labels.
        """
        metric = _metric(name, "gauge", labels)
        with self._lock:
            series = self._numbers[name]
            series[self._key(name, metric, labels, series)] = value

    def observe(self, name: str, value: float, /, **labels: str) -> None:
        """Count a value in its bucket of a histogram.

        Raises: ValueError if the table has no such histogram, or other labels.
        """
        metric = _metric(name, "histogram", labels)
        with self._lock:
            series = self._buckets[name]
            key = self._key(name, metric, labels, series)
            if (buckets := series.get(key)) is None:
                buckets = series[key] = [0.0] * (len(metric.bounds) + 2)  # the last one is the sum of the values
            buckets[bisect_left(metric.bounds, value)] += 1
            buckets[-1] += value

    def totals(self) -> dict[Series, float]:
        """Every series and its value; a histogram as counters `_bucket` with `le`, `_sum` and `_count`."""
        with self._lock:
            numbers = {name: dict(series) for name, series in self._numbers.items() if series}
            buckets = {
                name: {key: list(values) for key, values in series.items()}
                for name, series in self._buckets.items()
                if series
            }
        totals: dict[Series, float] = {}
        for name, series in numbers.items():
            metric = METRICS[name]
            for key, value in series.items():
                labels = tuple(zip(metric.labels, key, strict=True))
                totals[Series(name, metric.about, metric.kind == "gauge", labels)] = value
        for name, series in buckets.items():
            for key, values in series.items():
                totals |= _as_counters(name, METRICS[name], key, values)
        return totals

    def _key(
        self, name: str, metric: Metric, labels: Mapping[str, str], series: Mapping[tuple[str, ...], object]
    ) -> tuple[str, ...]:
        """Label values in the table's order; `other` for all of them once there are too many."""
        try:
            key = tuple([labels[label] for label in metric.labels])
        except KeyError as error:
            raise ValueError(f"{name} needs the labels {metric.labels}, got {sorted(labels)}") from error
        if key in series or len(series) < MAX_SERIES:
            return key
        refused = self._numbers["cascade_metric_series_refused_total"]
        refused[(name,)] = refused.get((name,), 0) + 1
        return (OTHER,) * len(key)


def _metric(name: str, kind: str, labels: Mapping[str, str]) -> Metric:
    metric = METRICS.get(name)
    if metric is None or metric.kind != kind or len(labels) != len(metric.labels):
        raise ValueError(
            f"{name} with the labels {sorted(labels)} is no {kind} in the table of metrics, which has {metric}; "
            "add it to METRICS in ensemble/metrics_table.py and to docs/serving.md"
        )
    return metric


def _as_counters(name: str, metric: Metric, key: tuple[str, ...], values: list[float]) -> dict[Series, float]:
    labels = tuple(zip(metric.labels, key, strict=True))
    *buckets, total = values
    counters: dict[Series, float] = {}
    so_far = 0.0
    for bound, number in zip([*map(_as_text, metric.bounds), "+Inf"], buckets, strict=True):
        so_far += number
        counters[Series(f"{name}_bucket", metric.about, False, (*labels, ("le", bound)))] = so_far
    counters[Series(f"{name}_count", metric.about, False, labels)] = so_far
    counters[Series(f"{name}_sum", metric.about, False, labels)] = total
    return counters


def _as_text(bound: float) -> str:
    return f"{bound:g}"


metrics = Metrics()
"""Those of this process, as its loggers are the process's."""
