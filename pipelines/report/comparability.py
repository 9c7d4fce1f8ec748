"""Whether two runs can be compared: the same logs, split and protocol; and what a reader must know otherwise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pipelines.config import as_document
from pipelines.report.configuration_section import flat, shown
from pipelines.report.run_record import ReportError, RunRecord

_SAME = ("drop_seen", "num_events", "num_impressions", "seconds_utc")
"""Of an evaluation's protocol, what must be equal: what is relevant, and the test period."""
_SAID = ("config", "num_test_users", "num_bootstrap", "level")


def check_comparable(a: RunRecord, b: RunRecord) -> list[str]:
    """What differs and must be said.

    Raises: ReportError listing everything that makes the comparison meaningless.
    """
    if a.holds_impressions != b.holds_impressions:
        kinds = ("impressions" if run.holds_impressions else "interactions of users and items" for run in (a, b))
        raise ReportError(f"{_both(a, b)}: one holds {' and the other '.join(kinds)}")
    if wrong := [*_data(a, b), *_protocol(a, b, _SAME)]:
        raise ReportError(f"{_both(a, b)}: they were not measured on the same: {'; '.join(wrong)}")
    return [*_described(a, b), *_stale(a, b), *_unmeasured(a, b), *_protocol(a, b, _SAID)]


def key_differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Dotted keys whose values differ, with both values as text."""
    ours, theirs = flat(a), flat(b)
    keys = [key for key in {**ours, **theirs} if key not in ours or key not in theirs or ours[key] != theirs[key]]
    return [(key, _shown(ours, key), _shown(theirs, key)) for key in keys]


def _shown(values: Mapping[str, Any], key: str) -> str:
    return shown(values[key]) if key in values else "absent"


def _both(a: RunRecord, b: RunRecord) -> str:
    return f"{a.folder} and {b.folder} cannot be compared"


def _data(a: RunRecord, b: RunRecord) -> Iterator[str]:
    ours, theirs = _files(a), _files(b)
    if ours != theirs:
        num_same = len(set(ours) & set(theirs))
        yield f"their logs have other content: {len(ours)} and {len(theirs)} files, {num_same} of them the same"
    elif not ours and (changed := _data_keys(a, b)):
        yield "their logs are made otherwise: " + _told(changed)
    split = key_differences(*(run.manifests["etl"]["config"].get("split", {}) for run in (a, b)))
    if split:
        yield "etl.split differs: " + _told(split)


def _files(run: RunRecord) -> list[tuple[str, str]]:
    """Log and content of each file, whatever it is called."""
    return sorted((name.split()[0], value) for name, value in run.manifests["etl"]["inputs"].items() if name != "data")


def _data_keys(a: RunRecord, b: RunRecord) -> list[tuple[str, str, str]]:
    if a.manifests["etl"]["inputs"]["data"] == b.manifests["etl"]["inputs"]["data"]:
        return []
    return key_differences(*(as_document(run.config.data) for run in (a, b)))


def _described(a: RunRecord, b: RunRecord) -> Iterator[str]:
    if changed := _data_keys(a, b):
        yield "the same files are described otherwise: " + _told(changed)


def _protocol(a: RunRecord, b: RunRecord, names: tuple[str, ...]) -> Iterator[str]:
    if a.evaluation is None or b.evaluation is None:
        return
    ours, theirs = ({name: run.evaluation["protocol"].get(name) for name in names} for run in (a, b) if run.evaluation)
    if changed := key_differences(ours, theirs):
        yield "the evaluation's protocol differs: " + _told(changed)


def _stale(a: RunRecord, b: RunRecord) -> Iterator[str]:
    for name, run in (("A", a), ("B", b)):
        yield from (f"{name}: {text}" for text in run.mismatches())


def _unmeasured(a: RunRecord, b: RunRecord) -> Iterator[str]:
    for name, run in (("A", a), ("B", b)):
        if run.evaluation is None:
            yield f"{name} is not evaluated, so quality is not compared: `cascade evaluate --run {name}`, its folder"


def _told(changed: list[tuple[str, str, str]]) -> str:
    return ", ".join(f"{key} {ours} and {theirs}" for key, ours, theirs in changed)
