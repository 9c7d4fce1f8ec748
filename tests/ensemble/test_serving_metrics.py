"""What the serving process counts, and what of it reaches Triton's metrics endpoint."""

import ast
import os
import re
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from ensemble.metrics_publisher import MetricsPublisher
from ensemble.metrics_table import METRICS
from ensemble.request import Reply, RequestError
from ensemble.run_metrics import count_error, count_run
from ensemble.serving_metrics import MAX_SERIES, OTHER, Metrics, metrics
from ensemble.trace import Trace

REPOSITORY = Path(__file__).resolve().parents[2]
ARGS = {"model_name": "cascade", "model_version": "7", "model_instance_name": "cascade_0_1"}


class FakeTriton:
    """Triton's module for metrics, with what it refuses."""

    def __init__(self):
        self.values = {}
        self.is_down = False
        fake = self

        class Metric:
            def __init__(self, family, labels):
                self.family, self.key = family, (family.name, *sorted(labels.items()))
                fake.values[self.key] = 0.0

            def increment(self, amount):
                assert amount > 0 and self.family.kind == "COUNTER"
                if fake.is_down:
                    raise RuntimeError("no Triton")
                fake.values[self.key] += amount

            def set(self, value):
                assert self.family.kind == "GAUGE"
                fake.values[self.key] = value

        class MetricFamily:
            COUNTER, GAUGE = "COUNTER", "GAUGE"

            def __init__(self, name, description, kind):
                assert re.fullmatch("[a-z_]+", name) and description
                self.name, self.kind = name, kind

            def Metric(self, labels):
                return Metric(self, labels)

        self.MetricFamily = MetricFamily

    def value(self, name, **labels):
        return self.values[
            (name, *sorted((labels | {"model": "cascade", "version": "7", "process": str(os.getpid())}).items()))
        ]


def told(series):
    return {(one.name, *one.labels): value for one, value in series.items()}


def test_counters_add_up_by_labels_and_gauges_are_what_they_were_last():
    ours = Metrics()
    ours.count("cascade_users_total", 3, source="cold")
    ours.count("cascade_users_total", source="cold")
    ours.count("cascade_users_total", 0, source="personal")
    assert told(ours.totals()) == {
        ("cascade_users_total", ("source", "cold")): 4,
        ("cascade_users_total", ("source", "personal")): 0,
    }


def test_a_histogram_counts_every_value_below_each_of_its_bounds():
    ours, rng = Metrics(), np.random.default_rng(0)
    bounds = METRICS["cascade_run_seconds"].bounds
    values = [*rng.exponential(0.01, 500).tolist(), *bounds, 0.0, 100.0]
    for value in values:
        ours.observe("cascade_run_seconds", value)
    series = told(ours.totals())
    for bound in bounds:
        expected = sum(value <= bound for value in values)
        assert series["cascade_run_seconds_bucket", ("le", f"{bound:g}")] == expected
    assert series["cascade_run_seconds_bucket", ("le", "+Inf")] == series[("cascade_run_seconds_count",)] == len(values)
    assert series[("cascade_run_seconds_sum",)] == pytest.approx(sum(values))


def test_threads_lose_no_count():
    ours = Metrics()

    def work():
        for _ in range(5_000):
            ours.count("cascade_requests_total", outcome="ok")
            ours.observe("cascade_stage_seconds", 0.1, stage="OrderSlate")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    series = told(ours.totals())
    assert series["cascade_requests_total", ("outcome", "ok")] == 20_000
    assert series["cascade_stage_seconds_count", ("stage", "OrderSlate")] == 20_000


@pytest.mark.parametrize(
    "call",
    [
        lambda ours: ours.count("cascade_unheard_of_total"),
        lambda ours: ours.count("cascade_users_total"),
        lambda ours: ours.count("cascade_users_total", 1, kind="cold"),
        lambda ours: ours.observe("cascade_users_total", 1, source="cold"),
        lambda ours: ours.gauge("cascade_users_total", 1, source="cold"),
    ],
)
def test_what_the_table_does_not_have_is_refused(call):
    with pytest.raises(ValueError, match=r"metrics_table.py|needs the labels"):
        call(Metrics())


def test_the_number_of_series_is_bounded_and_no_count_is_lost():
    ours = Metrics()
    for number in range(MAX_SERIES + 50):
        ours.count("cascade_users_total", source=str(number))
    ours.count("cascade_users_total", source="0")
    series = told(ours.totals())
    users = {key: value for key, value in series.items() if key[0] == "cascade_users_total"}
    assert len(users) == MAX_SERIES + 1 and sum(users.values()) == MAX_SERIES + 51
    assert users["cascade_users_total", ("source", OTHER)] == 50
    assert series["cascade_metric_series_refused_total", ("metric", "cascade_users_total")] == 50


def test_a_publisher_brings_changes_to_triton_until_it_stops_and_after_a_failure():
    ours, triton = Metrics(), FakeTriton()
    ours.count("cascade_users_total", 2, source="cold")
    ours.observe("cascade_run_users", 3)
    publisher = MetricsPublisher(ours, triton, ARGS)
    deadline = time.monotonic() + 10
    while "cascade_run_users_sum" not in {key[0] for key in triton.values}:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    triton.is_down = True
    ours.count("cascade_users_total", 3, source="cold")
    time.sleep(1.2)
    triton.is_down = False
    ours.count("cascade_users_total", 4, source="cold")
    publisher.stop()
    assert triton.value("cascade_users_total", source="cold") == 9
    assert triton.value("cascade_run_users_bucket", le="2") == 0
    assert triton.value("cascade_run_users_bucket", le="4") == triton.value("cascade_run_users_count") == 1
    assert triton.value("cascade_run_users_sum") == 3


def reply_of(*sources):
    size = len(sources)
    nothing = np.empty((size, 0), dtype=object)
    numbers = np.ones((size, 1), np.float32)
    return Reply(np.full((size, 1), "i", object), numbers, numbers, np.array(sources, object), nothing, nothing)


def test_a_run_is_counted_by_stage_and_source_and_filter(monkeypatch):
    ours = Metrics()
    monkeypatch.setattr("ensemble.run_metrics.metrics", ours)
    columns = {
        "proposed_row": np.array([[[1, 2, -1], [3, -1, -1]], [[4, -1, -1], [-1, -1, -1]]]),
        "removed_seen": np.array([[5, 6], [7, -1]]),
        "removed_rule": np.array([2, 0]),
    }
    trace = Trace({"EncodeQuery": 0.25, "OrderSlate": 2.0}, columns=columns)
    count_run(reply_of("cold", "fallback"), trace, 3.0, 2, ["two_tower", "new_items"])
    count_error(RequestError("k row 0"), "parse", None)
    count_error(KeyError("x"), "ScoreCandidates", None)
    series = told(ours.totals())
    for key, expected in {
        ("cascade_requests_total", ("outcome", "ok")): 2,
        ("cascade_requests_total", ("outcome", "refused")): 1,
        ("cascade_requests_total", ("outcome", "failed")): 1,
        ("cascade_errors_total", ("kind", "RequestError"), ("stage", "parse")): 1,
        ("cascade_errors_total", ("kind", "KeyError"), ("stage", "ScoreCandidates")): 1,
        ("cascade_users_total", ("source", "cold")): 1,
        ("cascade_users_total", ("source", "fallback")): 1,
        ("cascade_stage_seconds_bucket", ("stage", "EncodeQuery"), ("le", "0.25")): 1,
        ("cascade_stage_seconds_bucket", ("stage", "OrderSlate"), ("le", "1")): 0,
        ("cascade_stage_seconds_sum", ("stage", "OrderSlate")): 2.0,
        ("cascade_run_users_bucket", ("le", "2")): 1,
        ("cascade_run_requests_sum",): 2,
        ("cascade_proposed_items_total", ("source", "two_tower")): 3,
        ("cascade_proposed_items_total", ("source", "new_items")): 1,
        ("cascade_removed_total", ("filter", "seen")): 3,
        ("cascade_removed_total", ("filter", "rule")): 2,
    }.items():
        assert series[key] == expected, key


def calls_of_metrics():
    """(file, method, name, labels) of every call of metrics.count, .observe and .gauge in the code."""
    for path in sorted(p for folder in ("ensemble", "pipelines") for p in (REPOSITORY / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if (
                isinstance(node, ast.Call)
                and isinstance(node.func, ast.Attribute)
                and node.func.attr in ("count", "observe", "gauge")
                and isinstance(node.func.value, ast.Name)
                and node.func.value.id == "metrics"
            ):
                name = node.args[0]
                assert isinstance(name, ast.Constant), f"{path}:{node.lineno} must name its metric as a text"
                yield path, node.func.attr, name.value, {word.arg for word in node.keywords}


def test_the_table_has_every_metric_that_is_counted_and_no_other():
    kinds = {"count": "counter", "observe": "histogram", "gauge": "gauge"}
    counted = {"cascade_metric_series_refused_total"}
    for path, method, name, labels in calls_of_metrics():
        assert name in METRICS, f"{path} counts {name}, which METRICS does not have"
        assert METRICS[name].kind == kinds[method] and set(METRICS[name].labels) == labels, f"{path}: {name}"
        counted.add(name)
    assert counted == set(METRICS)


def test_the_documentation_lists_every_metric():
    section = (REPOSITORY / "docs/serving.md").read_text().partition("## Metrics")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(cascade_\w+)` \| (\w+) \|([^|]*)\|", section, re.MULTILINE)
    listed = {name: (kind, tuple(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}
    assert listed == {name: (metric.kind, metric.labels) for name, metric in METRICS.items()}


def test_counting_is_cheap():
    begun = time.perf_counter()
    for _ in range(2_000):
        metrics.observe("cascade_stage_seconds", 0.003, stage="OrderSlate")
    assert (time.perf_counter() - begun) / 2_000 < 50e-6
