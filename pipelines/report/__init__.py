"""The report of a run: one page that stands alone, made from the run's artifacts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from pipelines.html_page import drawing, rendered
from pipelines.replaced_file import replaced
from pipelines.report.blocks import Section, Warnings
from pipelines.report.candidates_section import candidates_section, sources_section
from pipelines.report.clicks_section import calibration_section, clicks_section
from pipelines.report.cohort_section import cohort_section
from pipelines.report.configuration_section import configuration_section
from pipelines.report.curves_section import curves_section
from pipelines.report.data_section import data_section
from pipelines.report.index_section import index_section
from pipelines.report.quality_section import quality_section
from pipelines.report.run_record import ReportError, RunRecord
from pipelines.report.stages_section import stages_section
from pipelines.report.summary_section import summary_section
from pipelines.report.versions_section import versions_section

__all__ = ["REPORT", "ReportError", "write_run_report"]

REPORT = "report.html"
_Make = Callable[[RunRecord], Section | None]
_SECTIONS: tuple[_Make, ...] = (
    summary_section,
    quality_section,
    cohort_section,
    clicks_section,
    calibration_section,
    candidates_section,
    sources_section,
    curves_section,
    data_section,
    index_section,
    stages_section,
    configuration_section,
    versions_section,
)
"""In the order of the page; one that has nothing to say gives None."""
_MEASURED: dict[_Make, tuple[str, str]] = {
    quality_section: ("Quality on the test users", ""),
    cohort_section: ("Quality by cohort", ""),
    clicks_section: ("Quality on the test impressions", ""),
    calibration_section: ("Calibration", ""),
    candidates_section: ("Candidates and their sources", " --stage candidates"),
}
"""Section that reads a measurement to its title, and the option of `cascade evaluate` that makes it."""


def write_run_report(folder: Path) -> Path:
    """Write `report.html` into a run folder. Equal artifacts give equal bytes.

    Returns: the page's path.
    Raises: ReportError if the folder holds no run, no finished stage, or a damaged file.
    """
    run = RunRecord.read(folder)
    with drawing():
        sections = [section for make in _SECTIONS if (section := _made(make, run)) is not None]
    page = folder / REPORT
    write_page(page, f"Run {run.name}", sections)
    return page


def write_page(page: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections as a page that stands alone."""
    with replaced(page) as building:
        building.write_text(rendered("report/page.html.j2", {}, title=title, sections=sections), encoding="utf-8")


def _made(make: _Make, run: RunRecord) -> Section | None:
    """The section, or where a measurement is older than it, a line that says so."""
    try:
        return make(run)
    except KeyError as error:
        if make not in _MEASURED:
            raise
        title, option = _MEASURED[make]
        text = (
            f"the measurement has no {error}: it is older than this part of the page; `cascade evaluate{option}` again"
        )
        return Section(title, [Warnings([text])])
