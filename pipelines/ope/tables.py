"""Reports of off-policy evaluation as tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping

from rich.box import SIMPLE_HEAD
from rich.table import Table

from pipelines.evaluation_table import wide_console

FEW_ROUNDS = 100
"""Effective rounds below which docs/ope.md measured that intervals miss."""


def print_evaluation(
    title: str, estimates: Mapping[str, Mapping[str, float]], overlap: Mapping[str, float], level: float
) -> None:
    """Print one row an estimator.

    Args:
        overlap: has `effective_sample_size`, `mean_weight` and `largest_weight`.
    """
    effective = overlap["effective_sample_size"]
    caption = f"effective rounds {effective:,.0f}, mean weight {overlap['mean_weight']:.2f} (1 with full overlap), "
    caption += f"largest {overlap['largest_weight']:,.0f}"
    if effective < FEW_ROUNDS:
        caption += f"; fewer than {FEW_ROUNDS} effective rounds: do not trust these intervals"
    table = Table(title=title, caption=caption, box=SIMPLE_HEAD, title_justify="left", caption_justify="left")
    table.add_column("estimator")
    for name in ("value", f"{level:.0%} interval", "standard error"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, one in estimates.items():
        table.add_row(name, f"{one['value']:.5f}", shown_interval(one), f"{one['standard_error']:.5f}")
    wide_console().print(table)


def shown_interval(one: Mapping[str, float]) -> str:
    return f"{one['low']:.5f} .. {one['high']:.5f}"
