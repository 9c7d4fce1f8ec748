"""The report of a run: one page that stands alone, made from the run's artifacts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from pipelines.html_page import drawing, rendered
from pipelines.replaced_file import replaced
from pipelines.report.blocks import Section
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
_SECTIONS = (
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


def write_run_report(folder: Path) -> Path:
    """Write `report.html` into a run folder. Equal artifacts give equal bytes.

    Returns: the page's path.
    Raises: ReportError if the folder holds no run, no finished stage, or a damaged file.
    """
    run = RunRecord.read(folder)
    with drawing():
        sections = [section for make in _SECTIONS if (section := make(run)) is not None]
    page = folder / REPORT
    write_page(page, f"Run {run.name}", sections)
    return page


def write_page(page: Path, title: str, sections: Sequence[Section]) -> None:
    """Write sections as a page that stands alone."""
    with replaced(page) as building:
        building.write_text(rendered("report/page.html.j2", {}, title=title, sections=sections), encoding="utf-8")
