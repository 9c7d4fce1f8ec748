"""Writes made logs, in the form of the H&M or Criteo files or with known click probabilities, at any size."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from features.errors import CascadeError

FORMATS = {
    "hm": ("csv", "csv.gz", "parquet"),
    "criteo": ("tsv", "tsv.gz", "parquet"),
    "clicks": ("csv", "csv.gz", "parquet"),
}
"""The shapes, and the forms of the files of each; the first is the default."""
MIN_USERS, MIN_ITEMS, MAX_ITEMS, MIN_IMPRESSIONS = 10, 50, 1_500_000, 100


class SynthError(CascadeError, ValueError):
    """The logs cannot be made as asked for."""


def synth(
    shape: str,
    out: Path,
    rows: int | None = None,
    users: int | None = None,
    items: int | None = None,
    file_format: str | None = None,
    seed: int = 1,
    say: Callable[[str], None] = print,
) -> None:
    """Write the files of a shape into a folder. The same arguments give the same bytes, in memory that does not grow
    with the rows.

    Args:
        shape: "hm" (articles, customers, transactions_train), "criteo" (day_0 to day_23), or "clicks" (impressions, and
            the probability with which each was clicked).
        out: the folder; it must be new or empty. Nothing is left in it if the process dies.
        rows: transactions or impressions; None: as many as the published files have, two million for "clicks".
        users: customers, not for "criteo"; None: in proportion to the rows, for "clicks" 2,000.
        items: articles, not for "criteo"; None: by the square root of the proportion, because a smaller log misses
            fewer of them, for "clicks" 2,000.
        file_format: one of FORMATS[shape]; None: the first.
        seed: of all chance.
        say: is told the progress, line by line.
    Raises: SynthError if an argument is not possible, or the folder holds something.
    """
    file_format = _checked(shape, out, rows, users, items, file_format, seed)
    building = out.parent / f".{out.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    building.mkdir(parents=True)
    begun, num_rows, num_bytes = time.monotonic(), 0, 0
    try:
        for name, written in _files(shape, building, rows, users, items, file_format, seed):
            num_rows, num_bytes = num_rows + written, num_bytes + (building / name).stat().st_size
            say(f"synth      {name}: {written:,} rows, {time.monotonic() - begun:.0f} s")
        os.replace(building, out)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    say(f"synth      {num_rows:,} rows, {num_bytes / 1e6:,.1f} MB: {out}")


def _files(
    shape: str, folder: Path, rows: int | None, users: int | None, items: int | None, file_format: str, seed: int
) -> Iterator[tuple[str, int]]:
    if shape == "criteo":
        from features.logs.shapes.criteo import FULL_ROWS, write_criteo

        return write_criteo(folder, rows or FULL_ROWS, file_format, seed)
    if shape == "clicks":
        from features.logs.shapes.clicks import FULL_ROWS, write_clicks

        return write_clicks(folder, rows or FULL_ROWS, users, items, file_format, seed)
    from features.logs.shapes.hm import FULL_ITEMS, FULL_ROWS, FULL_USERS, write_hm

    rows = rows or FULL_ROWS
    users = users or max(round(FULL_USERS * rows / FULL_ROWS), MIN_USERS)
    in_proportion = min(max(round(FULL_ITEMS * (rows / FULL_ROWS) ** 0.5), MIN_ITEMS), MAX_ITEMS)
    return write_hm(folder, rows, users, items or in_proportion, file_format, seed)


def _checked(
    shape: str, out: Path, rows: int | None, users: int | None, items: int | None, file_format: str | None, seed: int
) -> str:
    """The form of the files, if all arguments are possible."""
    if shape not in FORMATS:
        raise SynthError(f"the shape must be one of {', '.join(FORMATS)}, got {shape!r}")
    if file_format is not None and file_format not in FORMATS[shape]:
        raise SynthError(f"--format must be one of {', '.join(FORMATS[shape])} for {shape}, got {file_format!r}")
    ranges = {"rows": (rows, 1, None), "users": (users, MIN_USERS, None), "items": (items, MIN_ITEMS, MAX_ITEMS)}
    for name, (value, least, most) in (ranges | {"seed": (seed, 0, None)}).items():
        if value is not None and (value < least or (most and value > most)):
            limits = f"at least {least}" + (f" and at most {most:,}" if most else "")
            raise SynthError(f"--{name} must be {limits}, got {value}")
    if shape == "clicks" and rows is not None and rows < MIN_IMPRESSIONS:
        raise SynthError(f"--rows must be at least {MIN_IMPRESSIONS} for clicks, got {rows}")
    if shape == "criteo" and (users is not None or items is not None):
        raise SynthError(
            "--users and --items are for hm and clicks; a Criteo log names neither users nor items: leave them out"
        )
    if out.exists() and not out.is_dir():
        raise SynthError(f"{out} is a file; --out must name a folder that is new or empty")
    if out.is_dir() and any(out.iterdir()):
        raise SynthError(f"{out} is not empty; give another --out, or remove what is in it")
    return file_format or FORMATS[shape][0]
