"""What training reached, epoch by epoch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from pipelines.report.blocks import Block, Folded, Section, Table
from pipelines.report.figures import curves
from pipelines.report.run_record import RunRecord
from pipelines.shown_values import NOTHING, number

STAGES = ("retrieval", "ranking")
_NOT_DRAWN = ("epoch", "kept", "learning_rate", "table_learning_rate", "temperature", "seconds", "rows_per_second")
_TOGETHER = (("train_log_loss", "valid_log_loss"),)
"""Measures that share an axis."""


def curves_section(run: RunRecord) -> Section | None:
    """A figure a measure and a table a model; None if nothing was trained yet."""
    blocks = [block for stage in STAGES for block in _blocks(stage, run.learning_curve(stage), run)]
    return Section("Learning curves", blocks) if blocks else None


def _blocks(stage: str, written: Sequence[Mapping[str, Any]], run: RunRecord) -> Iterator[Block]:
    if not written:
        return
    epochs = [{"epoch": place, **epoch} for place, epoch in enumerate(written)]  # where a file has none, 0 is untrained
    best = run.metrics(stage).get("best_epoch")
    names = list(dict.fromkeys(name for epoch in epochs for name in epoch))
    drawn = [name for name in names if name not in _NOT_DRAWN]
    for group in (*_TOGETHER, *([name] for name in drawn if not any(name in group for group in _TOGETHER))):
        lines = {
            name: [(epoch["epoch"], epoch[name]) for epoch in epochs if epoch.get(name) is not None] for name in group
        }
        spoken = " and ".join(name.replace("_", " ") for name in group)
        plot = curves(f"{stage}: {spoken}; dotted: the epoch kept", lines, "epoch", [] if best is None else [best])
        if plot is not None:
            yield plot
    rows = [[_cell(epoch.get(name)) for name in names] for epoch in epochs]
    yield Folded(f"{stage}, every epoch", [Table("", [name.replace("_", " ") for name in names], rows)])


def _cell(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return NOTHING if value is None else number(value)
