"""What the run took: time, memory and room of each stage."""

from __future__ import annotations

from pipelines.report.blocks import Note, Section, Table
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import NOTHING, memory, seconds

MEMORY_NOTE = "Memory is the most that was resident at once in the process of the run, without workers that it starts."


def stages_section(run: RunRecord) -> Section:
    """A row a finished stage."""
    rows = []
    for stage, manifest in run.manifests.items():
        peak = manifest.get("peak_memory_bytes")
        size = sum(part["bytes"] for part in manifest["parts"].values())
        speed = manifest["metrics"].get("rows_per_second")
        shown = NOTHING if speed is None else f"{speed:,.0f}"
        rows.append(
            [stage, seconds(manifest["seconds"]), NOTHING if peak is None else memory(peak), memory(size), shown]
        )
    head = ["stage", "time", "peak memory", "artifact", "rows/s in training"]
    return Section("Time and memory", [Table("", head, rows), Note(MEMORY_NOTE)])
