"""The page of the monitor: what is wrong and what to do first, then everything that was measured."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from pipelines.html_page import drawing
from pipelines.monitor.monitored import FINDINGS, OK, Monitored
from pipelines.report import write_page
from pipelines.report.blocks import Block, Facts, Note, Section, Table, Warnings
from pipelines.report.figures import curves, forest
from pipelines.shown_values import NOTHING, count, percent, seconds

SECONDS_PER_HOUR = 3_600


def write_monitor_page(found: Monitored, title: str, page: Path) -> None:
    """A page that stands alone."""
    with drawing():
        write_page(page, title, [make(found) for make in _SECTIONS])


def _summary(found: Monitored) -> Section:
    window = found.window
    facts = Facts(
        [
            ("window", f"{_time(found.begin)} to {_time(found.end)} UTC"),
            ("requests", f"{count(len(window))} of {count(len(set(window.user_id)))} users"),
            ("reference", found.reference.origin),
            ("status", found.status),
        ]
    )
    if found.status == OK:
        return Section("Summary", [facts, Note("Nothing is beyond its threshold.")])
    if found.status != FINDINGS:
        return Section("Summary", [facts, Note("There are too few requests to judge; what was measured stands below.")])
    wrong = [f"{_name(cause.kind, cause.subject)}. {cause.text}." for cause in found.causes]
    actions = [(_name(cause.kind, cause.subject), cause.action) for cause in found.causes]
    explained = [
        (
            _name(cause.kind, cause.subject),
            one.check.replace("_", " "),
            one.subject,
            f"{one.now:.3g}",
            f"{one.limit:.3g}",
        )
        for cause in found.causes
        for one in cause.findings
    ]
    return Section(
        "Summary",
        [
            facts,
            Warnings(wrong),
            Note("What to do, the likeliest cause first:"),
            Facts(actions),
            Table("what each explains", ("cause", "check", "of", "measured", "threshold"), explained),
        ],
    )


def _features(found: Monitored) -> Section:
    rows = []
    for one in found.drift:
        shift = one.shift
        means = (
            (NOTHING, NOTHING) if shift is None or shift.now is None else (f"{shift.before:.3f}", f"{shift.now:.3f}")
        )
        rows.append(
            (
                one.name,
                NOTHING if shift is None else f"{shift.psi:.3f}",
                NOTHING if shift is None or shift.ks is None else f"{shift.ks:.3f}",
                *means,
                *(percent(value) for value in (*one.missing, *one.unseen)),
            )
        )
    head = ("feature", "PSI", "KS", "mean before", "mean now", "null before", "null now", "unseen before", "unseen now")
    blocks: list[Block] = [Table("as the models read them: numbers are normalised", head, rows)]
    drawn = {one.name: {"value": one.shift.psi} for one in found.drift if one.shift}
    if plot := forest("population stability index", drawn):
        blocks.append(plot)
    return Section("Drift of features", blocks)


def _skew(found: Monitored) -> Section:
    skew = found.skew
    lag = skew.lag_seconds[skew.lag_seconds > 0] / SECONDS_PER_HOUR
    facts = [
        ("requests compared", count(skew.num_compared)),
        ("with a feature that no state of the user has", count(skew.num_differing)),
        ("behind the events", count(skew.num_behind)),
        ("hours behind, median and most", f"{np.median(lag):.1f}, {lag.max():.1f}" if len(lag) else NOTHING),
        ("not compared: events came out of order", count(skew.num_late)),
    ]
    rows = [
        (name, percent(number / skew.num_compared), str(one["user_id"]), str(one["logged"]), str(one["recomputed"]))
        for name, number in skew.differing.items()
        for one in skew.examples[name][:3]
    ]
    blocks: list[Block] = [
        Note("The features that were logged, against those made again from the raw tables and events, value by value."),
        Facts(facts),
    ]
    if rows:
        blocks.append(Table("that differ", ("feature", "of the requests", "user", "served", "recomputed"), rows))
    return Section("Train/serve skew", blocks)


def _path(found: Monitored) -> Section:
    replies = [(name, percent(old), percent(new)) for name, (old, new) in found.traffic.replies.items()]
    sources = [
        (name, *(percent(value) for value in (*use.slate_share, *use.silent_share)))
        for name, use in found.traffic.sources.items()
    ]
    removed = [(name, f"{old:.2f}", f"{new:.2f}") for name, (old, new) in found.traffic.removed.items()]
    scores = [
        (name, f"{one.before:.3f}", f"{one.now:.3f}", f"{one.psi:.3f}", f"{one.ks:.3f}")
        for name, one in found.traffic.scores.items()
        if one
    ]
    source_head = ("source", "of the slates before", "now", "proposes nothing before", "now")
    return Section(
        "Sources, filters, scores",
        [
            Table("what replies came of", ("reply", "before", "now"), replies),
            Table("candidate sources; an item may have several", source_head, sources),
            Note(f"A source failed in {percent(found.traffic.failed_share)} of the requests."),
            Table("items that a filter keeps from a user", ("filter", "before", "now"), removed),
            Table("scores of known users", ("scores", "mean before", "mean now", "PSI", "KS"), scores),
        ],
    )


def _shown(found: Monitored) -> Section:
    rows = []
    for name, one in (("reference", found.shown_before), ("window", found.shown), *found.shown_by_day):
        rows.append(
            (
                name,
                count(one.num_slates),
                percent(one.coverage),
                f"{one.gini:.3f}",
                f"{one.top_item} {percent(one.top_share)}",
                f"{one.novelty:.2f}",
                percent(one.own_variety) if one.own_variety == one.own_variety else NOTHING,
                percent(one.repetition) if one.num_repeated else NOTHING,
            )
        )
    head = ("", "slates", "coverage", "Gini", "most shown", "novelty, bits", "own variety", "repetition")
    note = (
        "Coverage grows with the number of slates. Novelty is the mean of -log2 of an item's share of the reference's "
        "events; own variety the share of a user's places with different items; repetition the share of a slate that "
        "was in the user's slate before: where variety falls and repetition grows, users are in a bubble."
    )
    return Section("What is shown", [Note(note), Table("", head, rows)])


def _clicks(found: Monitored) -> Section:
    return Section("Clicks", [*_click_blocks(found)])


def _click_blocks(found: Monitored) -> Iterator[Block]:
    if not found.clicks_by_day:
        yield Note("Not known: give the events after the requests with --events.")
        return
    rows = [
        (
            str(day["day"]),
            count(day["places"]),
            f"{day['clicks']:.0f}",
            percent(day["ctr"]),
            NOTHING if day["expected"] is None else f"{day['expected']:.1f}",
            NOTHING if not day["expected"] else f"{day['clicks'] / day['expected']:.2f}",
        )
        for day in found.clicks_by_day
    ]
    yield Note(
        "A click is an event of the user with an item of the slate soon after. What the scores promise is learned from "
        "the days before the window (Platt scaling by score and place): a ratio of 1 is calibrated."
    )
    yield Table("by day", ("day", "places", "clicks", "of the places", "promised", "ratio"), rows)
    lines = {
        "clicks": [(float(place), day["clicks"]) for place, day in enumerate(found.clicks_by_day, 1)],
        "promised": [
            (float(place), day["expected"])
            for place, day in enumerate(found.clicks_by_day, 1)
            if day["expected"] is not None
        ],
    }
    if plot := curves("clicks by day", lines, "day"):
        yield plot


def _how(found: Monitored) -> Section:
    note = (
        "Thresholds stand in [monitor] of the configuration. A difference counts only if chance makes it in less than "
        "1 of 1,000 windows of this size, with the users, not the requests, taken as independent."
    )
    return Section("How it was measured", [Note(note), Facts([("time", seconds(found.seconds))])])


_SECTIONS = (_summary, _features, _skew, _path, _shown, _clicks, _how)
"""In the order of the page."""


def _name(kind: str, subject: str) -> str:
    return f"{kind.replace('_', ' ')}: {subject}" if subject else kind.replace("_", " ")


def _time(unix_seconds: float) -> str:
    return str(np.datetime64(int(unix_seconds), "s").astype("datetime64[m]")).replace("T", " ")
