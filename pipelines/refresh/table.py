"""The guards of a refresh as a table on the terminal."""

from __future__ import annotations

from collections.abc import Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from features.profile import printable
from pipelines.refresh.record import Guard


def print_guards(guards: Sequence[Guard], console: Console | None = None) -> None:
    """One row a guard."""
    if console is None:
        console = Console()
        if not console.is_terminal:
            console = Console(width=140)
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True)
    for title in ("guard", "verdict", "measured", "limit", "notes"):
        table.add_column(title, overflow="fold")
    for guard in guards:
        cells = (guard.name, guard.verdict, guard.measured, guard.limit, guard.reason)
        table.add_row(*(Text(printable(cell)) for cell in cells))
    console.print(table)
