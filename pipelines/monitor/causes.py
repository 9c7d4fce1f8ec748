"""From findings to what is wrong: a cause takes with it the findings that it explains.

A store that is behind makes histories shorter, scores lower and slates staler: many findings, one cause. The rules
stand in the order in which they are asked: what happens first on the way of the data explains what comes later.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from pipelines.monitor.findings import Finding
from pipelines.monitor.offline_features import LAST_TIMESTAMP

Kind = Literal[
    "store_down",
    "broken_join",
    "stale_store",
    "popularity_spike",
    "new_category",
    "missing_feature",
    "shifted_feature",
    "skew",
    "new_items",
    "old_release",
    "source_changed",
    "filter_changed",
    "scores_shifted",
    "exposure_changed",
    "clicks_changed",
]
HISTORY_PREFIXES = ("history", "user_num_events", "user_last_", LAST_TIMESTAMP)
"""Features that follow from a user's interactions."""
_DOWNSTREAM = ("prediction", "coverage", "shown_spike", "repetition", "ctr", "calibration", "source", "filter")
"""Checks of what is made from the features."""


@dataclass(frozen=True)
class Cause:
    """What is most likely wrong."""

    kind: Kind
    subject: str
    """The feature, item, source or filter; empty if the kind has none."""
    text: str
    """What was seen."""
    action: str
    """What to do."""
    findings: Sequence[Finding]
    """That name it, then those that it explains."""


@dataclass(frozen=True)
class _Rule:
    """Findings of these checks are of this cause, one cause a subject."""

    kind: Kind
    checks: tuple[str, ...]
    action: str
    explains: Callable[[Finding, str], bool] = lambda finding, subject: False
    """Whether the cause with this subject explains another finding."""
    of: Callable[[Finding], bool] = lambda finding: True
    """Which findings of the checks it is about."""


def causes_of(findings: Iterable[Finding], attributes: Sequence[str]) -> list[Cause]:
    """Every finding in exactly one cause, the likeliest first.

    Args:
        attributes: features that come from the users table.
    """
    left, found = list(findings), []
    for rule in _rules(attributes):
        own = [one for one in left if one.check in rule.checks and rule.of(one)]
        for subject in dict.fromkeys(_subject(one) for one in own):
            named = [one for one in own if _subject(one) == subject]
            left = [one for one in left if one not in named]
            explained = [one for one in left if one not in own and rule.explains(one, subject)]
            left = [one for one in left if one not in explained]
            text = "; ".join(one.text for one in named)
            found.append(Cause(rule.kind, subject, text, rule.action, [*named, *explained]))
    return found


def _subject(finding: Finding) -> str:
    """A feature without the part of a list that was compared."""
    return (
        finding.subject.partition(".")[0]
        if finding.check in ("shift", "missing", "unseen", "skew")
        else finding.subject
    )


def _rules(attributes: Sequence[str]) -> list[_Rule]:
    def downstream(finding: Finding, subject: str) -> bool:
        return finding.check in _DOWNSTREAM

    def join(finding: Finding, subject: str) -> bool:
        of_attributes = subject == "attributes" and _subject(finding) in attributes
        return downstream(finding, subject) or of_attributes or (subject == "ids" and _is_of_history(finding))

    def stale(finding: Finding, subject: str) -> bool:
        return downstream(finding, subject) or _is_of_history(finding)

    def spike(finding: Finding, subject: str) -> bool:
        return downstream(finding, subject) or (finding.check != "skew" and _is_of_history(finding))

    def feature(finding: Finding, subject: str) -> bool:
        return downstream(finding, subject) or (finding.check in ("skew", "shift") and _subject(finding) == subject)

    def everything(finding: Finding, subject: str) -> bool:
        return True

    return [
        _Rule(
            "store_down", ("degraded",), "look at cascade.jsonl and the online store: it fails or is slow", everything
        ),
        _Rule(
            "broken_join",
            ("attributes_missing", "unknown_users"),
            "compare the ids of requests, users table and store: does their form (case, padding, type) differ?",
            join,
        ),
        _Rule(
            "stale_store",
            ("behind",),
            "bring the events into the store: is `cascade events push`, or the nightly export, running?",
            stale,
        ),
        _Rule(
            "popularity_spike",
            ("item_spike",),
            "find out what drives the item (a campaign, a wrong price, a robot); keep it away with a rule if need be",
            spike,
        ),
        _Rule(
            "new_category",
            ("unseen",),
            "values that were not there in training count as one; refresh the run, or mend the source of the column",
            feature,
            lambda finding: not _is_of_history(finding),
        ),
        _Rule(
            "missing_feature",
            ("missing",),
            "it is delivered empty: look at the source of the users table, or of the events (user_last_...)",
            feature,
        ),
        _Rule(
            "shifted_feature",
            ("shift",),
            "has the unit or the meaning of the column changed, or who asks? If the users changed, refresh the run",
            feature,
        ),
        _Rule(
            "skew",
            ("skew",),
            "serving reads another value than training computed: compare the two in monitor.json; if the users table "
            "changed since, give it with --users",
            downstream,
        ),
        _Rule(
            "new_items",
            ("unseen",),
            "many recent interactions are with items that the models do not know: refresh the run",
            downstream,
        ),
        _Rule("old_release", ("old_release",), "refresh the run", downstream),
        _Rule(
            "source_changed", ("source",), "look at the source's failures in cascade.jsonl and the metrics", downstream
        ),
        _Rule("filter_changed", ("filter",), "look at the rules, the stock file and what callers exclude", downstream),
        _Rule(
            "scores_shifted",
            ("prediction",),
            "explore a few users (`cascade explore`), then refresh the run",
            downstream,
        ),
        _Rule(
            "exposure_changed",
            ("coverage", "shown_spike", "repetition"),
            "look at diversity and temperature of serving.ordering, and at the sources",
        ),
        _Rule(
            "clicks_changed",
            ("ctr", "calibration"),
            "nothing in the features explains it: look at the place where slates are shown, then refresh the run",
        ),
    ]


def _is_of_history(finding: Finding) -> bool:
    is_feature = finding.check in ("shift", "missing", "unseen", "skew")
    return is_feature and _subject(finding).startswith(HISTORY_PREFIXES)
