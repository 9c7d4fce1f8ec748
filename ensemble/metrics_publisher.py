"""MetricsPublisher: brings a process's metrics to Triton's metrics endpoint, off the request path."""

from __future__ import annotations

import logging
import os
import time
from threading import Event, Thread
from typing import Any

from ensemble.serving_metrics import Metrics, Series

SECONDS_BETWEEN = 1.0
"""How old a value on the endpoint can be."""

_BREATH_SECONDS = 2e-4
_log = logging.getLogger(__name__)


class MetricsPublisher:
    """A thread that tells Triton what has changed. A value takes Triton some 50 us, most of them without the
    interpreter's lock; requests get a turn between any two. Each process has its own series: sum them.

    Triton 2.51's own histograms take one value a call, so histograms go out as counters with the label `le`, which
    PromQL's `histogram_quantile` reads.

    Args:
        metrics: what to publish.
        pb_utils: Triton's module.
        args: those of the model's `initialize`: its name, version and instance become labels.
    """

    def __init__(self, metrics: Metrics, pb_utils: Any, args: dict[str, str]) -> None:
        self._metrics = metrics
        self._pb_utils = pb_utils
        # Triton 2.51 frees a series with the first process that lets it go, under the hands of another that has the
        # same labels: a version that is loaded anew while it serves would bring Triton down.
        process = str(os.getpid())
        self._labels = {"model": args["model_name"], "version": args["model_version"], "process": process}
        self._instance = {"instance": args["model_instance_name"]}
        self._families: dict[str, Any] = {}
        self._published: dict[Series, tuple[Any, float]] = {}
        self._stopped = Event()
        self._thread = Thread(target=self._publish_until_stopped, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Publish what is left and end the thread; this version's series leave the endpoint with the last instance."""
        self._stopped.set()
        self._thread.join(timeout=5)
        self._published.clear()  # before their families, as Triton demands
        self._families.clear()

    def _publish_until_stopped(self) -> None:
        is_last = False
        while not is_last:
            is_last = self._stopped.wait(SECONDS_BETWEEN)
            try:
                self._publish()
            except Exception:  # the totals stay, and the next turn publishes them
                _log.exception("the metrics cannot be published; trying again in %g s", SECONDS_BETWEEN)

    def _publish(self) -> None:
        for series, value in self._metrics.totals().items():
            metric, before = self._published.get(series) or (self._metric(series), 0.0)
            if value != before and series.is_gauge:
                metric.set(value)
            elif value != before:
                metric.increment(value - before)
            elif series in self._published:
                continue
            self._published[series] = metric, value
            time.sleep(_BREATH_SECONDS)

    def _metric(self, series: Series) -> Any:
        families = self._pb_utils.MetricFamily
        family = self._families.get(series.name)
        if family is None:
            kind = families.GAUGE if series.is_gauge else families.COUNTER
            family = self._families[series.name] = families(name=series.name, description=series.about, kind=kind)
        return family.Metric(labels=self._labels | (self._instance if series.is_gauge else {}) | dict(series.labels))
