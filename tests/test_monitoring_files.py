"""The Grafana dashboard and the alert rules ask for metrics and label values that exist."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import get_args

import pytest
import yaml

from ensemble.metrics_table import METRICS as SERVED
from pipelines.monitor.causes import Kind
from pipelines.monitor.prometheus_file import METRICS as MONITORED

FOLDER = Path(__file__).resolve().parents[1] / "deploy" / "monitoring"
DASHBOARD = json.loads((FOLDER / "grafana.json").read_text())
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
RULES = [rule for group in yaml.safe_load((FOLDER / "alerts.yaml").read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = [target["expr"] for panel in PANELS for target in panel["targets"]] + [rule["expr"] for rule in RULES]
LABELS = {name: set(metric.labels) for name, metric in SERVED.items() if metric.kind != "histogram"}
LABELS |= {
    f"{name}{end}": {*metric.labels, *(["le"] if end == "_bucket" else [])}
    for name, metric in SERVED.items()
    if metric.kind == "histogram"
    for end in ("_bucket", "_sum", "_count")
}
LABELS |= {name: set(labels) for name, (_, labels) in MONITORED.items()}


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_every_metric_exists_and_has_the_labels_that_are_asked_for(expression):
    names = re.findall(r"\bcascade_\w+", expression)
    assert names and set(names) <= set(LABELS)
    known = set().union(*(LABELS[name] for name in names))
    asked = [word.strip() for group in re.findall(r"by \(([^)]*)\)", expression) for word in group.split(",")]
    asked += re.findall(r"(\w+)=~?\"", expression)
    assert set(asked) <= known
    assert expression.count("(") == expression.count(")") and expression.count("{") == expression.count("}")


def test_every_metric_of_the_monitor_is_on_the_dashboard():
    drawn = set(re.findall(r"\bcascade_monitor_\w+", " ".join(EXPRESSIONS)))
    derived = {"cascade_monitor_status", "cascade_monitor_feature_ks"}
    assert drawn == set(MONITORED) - derived


def test_panels_have_their_own_numbers_and_do_not_lie_on_each_other():
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])
    fields = set()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        own = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not own & fields and at["x"] + at["w"] <= 24, panel["title"]
        fields |= own


def test_rules_say_what_to_do_and_what_they_fill_in_is_there():
    for rule in RULES:
        assert rule["annotations"]["summary"] and rule["annotations"]["action"], rule["alert"]
        assert rule["labels"]["severity"] in ("page", "ticket")
        filled = re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"])
        names = re.findall(r"\bcascade_\w+", rule["expr"])
        assert set(filled) <= set().union(*(LABELS[name] for name in names)), rule["alert"]


def test_the_page_of_the_monitor_says_what_every_cause_is():
    page = (FOLDER.parents[1] / "docs" / "monitor.md").read_text()
    assert {f"`{kind}`" for kind in get_args(Kind)} <= set(re.findall(r"`\w+`", page))
