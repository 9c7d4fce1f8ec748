"""The comparison of two runs: a page, and a table on the terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.table import Table as TerminalTable
from rich.text import Text

from pipelines.config import as_document
from pipelines.evaluation_table import wide_console
from pipelines.html_page import drawing
from pipelines.report import write_page
from pipelines.report.blocks import Block, Note, Section, Table, Warnings
from pipelines.report.comparability import check_comparable, key_differences
from pipelines.report.compared_quality import BETTER, PAIRED, UNPAIRED, WORSE, Compared, compared_quality
from pipelines.report.figures import forest
from pipelines.report.run_record import RunRecord
from pipelines.report.stages_section import MEMORY_NOTE
from pipelines.shown_values import NOTHING, interval, memory, number, seconds, text

PAGE = "comparison.html"
_OF_INDEX = ("kind", "num_vectors", "dim", "bytes", "recall_at_100_against_exact", "speedup_over_exact")
_HOW = (
    "Differences are B less A. {how} B is called better or worse where the {level} interval leaves out 0: of many "
    "metrics without a real difference, some will be called so by chance."
)
_OF = {
    PAIRED: "They are paired: both measured the same test users, or impressions, and are drawn again together.",
    UNPAIRED: "They are not paired, because no values of the same test users, or impressions, are there for both: the "
    "intervals come from those of the two runs, and are wider than paired ones.",
}


def write_comparison(a: Path, b: Path, out: Path | None = None) -> Path:
    """Write the page of what differs between two runs, and print it in short.

    Args:
        out: the page; `comparison.html` in the folder of B if None.
    Returns: the page's path.
    Raises: ReportError if one is no run, or they cannot be compared; TargetError.
    """
    runs = RunRecord.read(a), RunRecord.read(b)
    warned = check_comparable(*runs)
    changed = key_differences(*(as_document(run.config) for run in runs))
    quality = compared_quality(*runs)
    with drawing():
        sections = [
            _summary(*runs, warned, quality),
            _configuration(changed),
            *_quality(*runs, quality),
            _costs(*runs),
            *_index(*runs),
            *_versions(*runs),
        ]
    page = out or b / PAGE
    write_page(page, f"{runs[0].name} and {runs[1].name}", sections)
    _print(warned, changed, quality)
    return page


def _summary(a: RunRecord, b: RunRecord, warned: Sequence[str], quality: Sequence[Compared]) -> Section:
    blocks: list[Block] = [Warnings(warned)] if warned else []
    blocks.append(Note(f"A is {a.name}, B is {b.name}."))
    for verdict in (BETTER, WORSE):
        if names := [one.name for one in quality if one.verdict == verdict]:
            blocks.append(Note(f"B is {verdict} in {', '.join(names)}."))
    if quality and not any(one.verdict in (BETTER, WORSE) for one in quality):
        blocks.append(Note("No metric shows that one is better."))
    return Section("Summary", blocks)


def _configuration(changed: Sequence[tuple[str, str, str]]) -> Section:
    table = Table("Keys that differ", ["key", "A", "B"], changed)
    return Section("Configuration", [table if changed else Note("The same configuration.")])


def _quality(a: RunRecord, b: RunRecord, quality: Sequence[Compared]) -> Iterator[Section]:
    if not quality:
        return
    protocol = (b.evaluation or {})["protocol"]
    level = protocol["level"] if b.holds_impressions else protocol["config"]["level"]
    how = " ".join(_OF[one] for one in (PAIRED, UNPAIRED) if any(of.how == one for of in quality))
    drawn = {one.name: one.difference for one in quality if one.higher_is_better is not None}
    plot = forest(f"B less A, with {level:.0%} intervals", drawn, zero=True)
    rows = [
        [one.name, interval(one.a), interval(one.b), interval(one.difference, signed=True), one.how, one.verdict]
        for one in quality
    ]
    table = Table("", ["metric", "A", "B", "B less A", "users", "B is"], rows)
    yield Section("Quality", [Note(_HOW.format(how=how, level=f"{level:.0%}")), *([plot] if plot else []), table])


def _costs(a: RunRecord, b: RunRecord) -> Section:
    rows = []
    for stage in dict.fromkeys([*a.manifests, *b.manifests]):
        sides = [run.manifests.get(stage) for run in (a, b)]
        times = [None if one is None else one["seconds"] for one in sides]
        peaks = [None if one is None else one.get("peak_memory_bytes") for one in sides]
        ratio = f"{times[1] / times[0]:.2f}" if times[0] and times[1] is not None else NOTHING
        shown = [NOTHING if one is None else seconds(one) for one in times]
        rows.append([stage, *shown, ratio, *(NOTHING if one is None else memory(one) for one in peaks)])
    head = ["stage", "time of A", "time of B", "B / A", "peak memory of A", "peak memory of B"]
    note = "Times are of one run each, maybe beside other work on the machine: small differences say nothing."
    return Section("Time and memory", [Table("", head, rows), Note(note), Note(MEMORY_NOTE)])


def _index(a: RunRecord, b: RunRecord) -> Iterator[Section]:
    sides = [run.metrics("index") for run in (a, b)]
    if all(sides):
        rows = [[name.replace("_", " "), *(_of_index(one.get(name)) for one in sides)] for name in _OF_INDEX]
        yield Section("Index", [Table("", ["", "A", "B"], rows)])


def _of_index(value: Any) -> str:
    if value is None or isinstance(value, str):
        return value or NOTHING
    return number(value)


def _versions(a: RunRecord, b: RunRecord) -> Iterator[Section]:
    sides = [{stage: _made_with(one) for stage, one in run.manifests.items()} for run in (a, b)]
    if changed := key_differences(*sides):
        yield Section("Versions", [Table("What differs", ["stage and package", "A", "B"], changed)])


def _made_with(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {**manifest["versions"], "commit": manifest.get("commit")}


def _print(warned: Sequence[str], changed: Sequence[tuple[str, str, str]], quality: Sequence[Compared]) -> None:
    console = wide_console()
    for line in warned:
        console.print(Text(f"! {text(line)}"))
    for title, head, rows in (
        ("Configuration", ("key", "A", "B"), changed),
        (
            "Quality, B less A",
            ("metric", "A", "B", "difference", "B is"),
            [
                (one.name, interval(one.a), interval(one.b), interval(one.difference, signed=True), one.verdict)
                for one in quality
            ],
        ),
    ):
        if not rows:
            console.print(Text(f"{title}: nothing {'differs' if rows is changed else 'to compare'}"))
            continue
        table = TerminalTable(title=title, box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
        for name in head:
            table.add_column(name, overflow="fold")
        for row in rows:
            table.add_row(*(Text(text(cell)) for cell in row))
        console.print(table)
