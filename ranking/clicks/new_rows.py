"""The examples that came with an append: those behind the ones that an earlier model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq


def rows_behind(paths: Sequence[Path], num_known: int, folder: Path) -> list[Path]:
    """Parquet files with all rows but the first; files without a row to leave out are named as they are.

    Args:
        paths: parquet files, in order. An append keeps the order: what it brings comes behind.
        num_known: rows to leave out.
        folder: for the one file that has rows of both kinds.
    Returns: empty if there is no row more.
    """
    found, left = [], num_known
    for path in paths:
        num_rows = pq.read_metadata(path).num_rows
        if left <= 0:
            found.append(path)
        elif left < num_rows:
            found.append(folder / path.name)
            pq.write_table(pq.read_table(path).slice(left), found[-1])
        left -= num_rows
    return found
