"""The request log of a folder as one table, in the order in which the requests came."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from ensemble.request_rows import FORMAT_KEY, FORMAT_VERSION
from features.errors import CascadeError

SHADOW = "/shadow"
"""End of the arm of slates that were asked for and shown to nobody."""


class RequestLogError(CascadeError, ValueError):
    """The request log does not hold what is needed of it."""


def request_log_table(
    folder: Path, columns: Sequence[str], begin: float | None = None, end: float | None = None
) -> pa.Table:
    """The log's rows by `received`, without what only a shadow answered.

    Args:
        folder: with `requests-*.parquet`, as `cascade serve` writes them.
        columns: of `ensemble.request_rows.SCHEMA`, `received` and `arm` among them.
        begin, end: Unix seconds; only what was received in [begin, end).
    Raises: RequestLogError if there is none, it is of another version, or it is empty.
    """
    files = sorted(folder.glob("requests-*.parquet"))
    if not files:
        raise RequestLogError(
            f"{folder}: holds no requests-*.parquet; `cascade serve` writes them to serve/requests of the run's "
            "folder, a share serving.request_log.sample of the requests"
        )
    for file in files:
        version = (pq.read_schema(file).metadata or {}).get(FORMAT_KEY.encode(), b"none").decode()
        if version != str(FORMAT_VERSION):
            raise RequestLogError(
                f"{file}: must be a request log of version {FORMAT_VERSION} ({FORMAT_KEY} in its metadata), is of "
                f"{version}; read it with the Cascade that wrote it"
            )
    within = [
        compare(ds.field("received"), pa.scalar(round(at * 1e6), pa.timestamp("us", "UTC")))
        for compare, at in ((operator.ge, begin), (operator.lt, end))
        if at is not None
    ]
    chosen = functools.reduce(operator.and_, within) if within else None
    table = ds.dataset(files).to_table(columns=list(columns), filter=chosen).sort_by("received")
    seen = [not (arm or "").endswith(SHADOW) for arm in table["arm"].to_pylist()]
    table = table.filter(pa.array(seen, pa.bool_()))
    if not len(table):
        raise RequestLogError(
            f"{folder}: the {len(files)} files of the log hold no slate that somebody saw"
            f"{'' if begin is None and end is None else ' in the time asked for'} ({len(seen):,} of shadows); serve "
            "requests first"
        )
    return table


def unix_seconds(column: pa.ChunkedArray) -> np.ndarray:
    """[B] whole Unix seconds of a column of times."""
    return column.cast(pa.timestamp("us", "UTC")).cast(pa.int64()).to_numpy() // 1_000_000
