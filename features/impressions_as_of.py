"""What the log says of a row before its own moment: how often its user, its item, ... was shown, and clicked.

A row sees the rows with a strictly smaller timestamp, of whatever part: that is what a live system knows at that
moment. Rows of the very same second do not see each other. The sums of all rows are held in memory: about 40 bytes a
row and column.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.logs.impressions import ImpressionColumns
from features.ops.as_of_sums import SeenBefore, merged_as_of, summed_as_of
from features.ops.interner import Interner

GROUP = "group"
"""Column of the examples that says whose impression it was: int64, a number per user in order of appearance, -1 if
unknown. It is no feature."""
JOINED = "+"


def as_of_names(columns: ImpressionColumns) -> list[str]:
    """The numbers that `derived` adds: of each key the number of earlier impressions, and the share of them clicked."""
    keys = [key.replace(JOINED, "_") for key in columns.as_of]
    return [name for key in keys for name in (f"{key}_num_impressions", f"{key}_click_rate")]


def derive(
    columns: ImpressionColumns, parts: Mapping[str, Sequence[Path]], smoothing: float, folder: Path
) -> dict[str, list[Path]]:
    """Write the rows again with the group's number and the numbers of `as_of_names`.

    Args:
        parts: name of a part -> files of raw rows.
        smoothing: weight, in rows, of the click rate of all earlier rows in the rate of a key.
        folder: where a folder for each part is made.
    Returns: name of a part -> the files written.
    """
    paths = [path for files in parts.values() for path in files]
    seen = {key: _seen_before(columns, key, paths) for key in columns.as_of}
    groups = Interner()
    written: dict[str, list[Path]] = {}
    for part, files in parts.items():
        (folder / part).mkdir(parents=True)
        written[part] = []
        for path in files:
            table = pq.read_table(path)
            for key, sums in seen.items():
                for name, values in _numbers(table, columns, key, sums, smoothing):
                    table = table.append_column(name, pa.array(values))
            if columns.group is not None:
                table = table.append_column(GROUP, pa.array(_codes(table[columns.group], groups)))
            pq.write_table(table, folder / part / path.name)
            written[part].append(folder / part / path.name)
    return written


def _seen_before(columns: ImpressionColumns, key: str, paths: Sequence[Path]) -> SeenBefore:
    wanted = [columns.label, str(columns.timestamp), *key.split(JOINED)]
    sums = []
    for path in paths:
        table = pq.read_table(path, columns=wanted)
        label = table[columns.label].to_numpy().astype(np.float64)
        measures = np.column_stack([np.ones_like(label), label])
        sums.append(summed_as_of(_keys(table, key), table[str(columns.timestamp)].to_numpy(), measures))
    return SeenBefore(merged_as_of(sums))


def _numbers(
    table: pa.Table, columns: ImpressionColumns, key: str, sums: SeenBefore, smoothing: float
) -> Iterator[tuple[str, np.ndarray]]:
    moment = table[str(columns.timestamp)].to_numpy()
    count_N, clicks_N = sums.seen(_keys(table, key), moment).T
    all_N, all_clicks_N = sums.total(moment).T
    mean_N = np.divide(all_clicks_N, all_N, out=np.zeros_like(all_N), where=all_N > 0)
    rate_N = np.divide(clicks_N + smoothing * mean_N, count_N + smoothing, out=mean_N.copy(), where=count_N > 0)
    name = key.replace(JOINED, "_")
    yield f"{name}_num_impressions", count_N
    yield f"{name}_click_rate", rate_N


def _keys(table: pa.Table, key: str) -> list[pa.Array]:
    """The values of a column; of several columns, their values as one text."""
    texts = [table[name].cast(pa.string()).combine_chunks() for name in key.split(JOINED)]
    if len(texts) == 1:
        return [texts[0]]
    lengths = [pc.cast(pc.binary_length(text), pa.string()) for text in texts]
    pairs = [one for pair in zip(lengths, texts, strict=True) for one in pair]
    return [pc.binary_join_element_wise(*pairs, ":", null_handling="replace", null_replacement="-")]


def _codes(column: pa.ChunkedArray, groups: Interner) -> np.ndarray:
    """[N] int64, -1 for null."""
    return groups.add(column.cast(pa.string()).combine_chunks()).astype(np.int64)
