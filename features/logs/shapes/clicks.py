"""Shape `clicks`: a made click world as one file of impressions, with the true probability of each row in another."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa

from features.logs.click_world import PROBABILITY, ClickWorldConfig, make_click_world
from features.logs.shapes.table_file import TableFile

FULL_ROWS = 2_000_000


def write_clicks(
    folder: Path, rows: int, users: int | None, items: int | None, file_format: str, seed: int
) -> Iterator[tuple[str, int]]:
    """Write `impressions` and `probability`, day by day.

    Args:
        users, items: None for the world's own number.
    Yields: name and rows of each file, once both are whole.
    """
    sizes = {"num_users": users, "num_items": items}
    given = {name: size for name, size in sizes.items() if size is not None}
    days = make_click_world(ClickWorldConfig(num_impressions=rows, seed=seed, **given)).days()
    first = next(days)
    log, truth = first.schema.remove(first.schema.get_field_index(PROBABILITY)), pa.schema([first.field(PROBABILITY)])
    names = [f"{stem}.{file_format}" for stem in ("impressions", "probability")]
    with TableFile(folder / names[0], log) as impressions, TableFile(folder / names[1], truth) as probabilities:
        for day in (first, *days):
            impressions.write(day.select(log.names))
            probabilities.write(day.select([PROBABILITY]))
    yield from zip(names, (impressions.num_rows, probabilities.num_rows), strict=True)
