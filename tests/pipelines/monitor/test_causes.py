"""Findings to causes: what comes first on the way of the data explains what comes later, and nothing is lost."""

import pytest

from pipelines.monitor.causes import causes_of
from pipelines.monitor.findings import Check, Finding

ATTRIBUTES = ["user_age", "user_status"]


def finding(check: Check, subject: str = "") -> Finding:
    return Finding(check, subject, 1.0, 0.5, f"{check} of {subject}")


CASES = {
    "a store that is behind": (
        [("behind", ""), ("shift", "history.length"), ("prediction", "slate")],
        [("stale_store", "")],
    ),
    "null attributes": (
        [("missing", "user_age"), ("attributes_missing", "attributes"), ("shift", "user_status"), ("skew", "user_age")],
        [("broken_join", "attributes")],
    ),
    "ids of another form": (
        [("prediction", "slate"), ("unknown_users", "ids"), ("coverage", "")],
        [("broken_join", "ids")],
    ),
    "a new category": ([("skew", "user_status"), ("unseen", "user_status")], [("new_category", "user_status")]),
    "a column that is empty": ([("missing", "user_age"), ("shift", "user_age")], [("missing_feature", "user_age")]),
    "another unit": (
        [("prediction", "slate"), ("skew", "user_age"), ("shift", "user_age")],
        [("shifted_feature", "user_age")],
    ),
    "served otherwise than computed": ([("skew", "user_age"), ("prediction", "slate")], [("skew", "user_age")]),
    "one item": (
        [("shown_spike", "x"), ("item_spike", "x"), ("unseen", "history.newest")],
        [("popularity_spike", "x")],
    ),
    "items that the models do not know": ([("unseen", "history.newest"), ("ctr", "")], [("new_items", "history")]),
    "two features": (
        [("shift", "user_age"), ("unseen", "user_status")],
        [("new_category", "user_status"), ("shifted_feature", "user_age")],
    ),
    "a store that is down": ([("degraded", "store"), ("shift", "user_age")], [("store_down", "store")]),
    "a source alone": ([("source", "linear"), ("prediction", "slate")], [("source_changed", "linear")]),
    "clicks alone": ([("ctr", ""), ("calibration", "")], [("clicks_changed", "")]),
    "nothing": ([], []),
}


@pytest.mark.parametrize("name", CASES)
def test_the_cause_is_named_and_takes_what_it_explains(name):
    given, expected = CASES[name]
    findings = [finding(check, subject) for check, subject in given]
    causes = causes_of(findings, ATTRIBUTES)
    assert [(cause.kind, cause.subject) for cause in causes] == expected
    held = [one for cause in causes for one in cause.findings]
    assert sorted(held, key=str) == sorted(findings, key=str), "every finding in exactly one cause"
    assert all(cause.text and cause.action for cause in causes)


def test_a_spike_explains_no_value_that_is_wrong():
    causes = causes_of([finding("item_spike", "x"), finding("skew", "history")], ATTRIBUTES)
    assert [cause.kind for cause in causes] == ["popularity_spike", "skew"]
