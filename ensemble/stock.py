"""Which items can be had, from a table that changes while the server runs.

Errors: StockError (the table cannot be used).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from threading import Thread

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as csv
import pyarrow.parquet as pq

from ensemble.filter_config import StockConfig
from ensemble.serving_metrics import metrics
from features.errors import CascadeError

# I items
_log = logging.getLogger(__name__)
_TRUE, _FALSE = ("true", "t", "yes", "1"), ("false", "f", "no", "0", "")


class StockError(CascadeError, ValueError):
    """A table of what can be had that cannot be used: what was expected, what came, where."""


def read_stock(config: StockConfig, row_of_id: Mapping[str, int], num_items: int) -> np.ndarray:
    """[I] bool: whether each item can be had. Ids that the catalogue does not have are ignored.

    Raises: StockError.
    """
    path = Path(config.file)
    ids, available = _columns(config, path)
    available_I = np.full(num_items, config.others_available)
    rows = np.array([row_of_id.get(item_id, -1) for item_id in ids.to_pylist()], np.int64)
    is_there = rows >= 0
    if len(ids) and not is_there.any():
        raise StockError(
            f"{path}: none of its {len(ids)} item ids is in the catalogue, the first is {ids[0].as_py()!r}; "
            "give ids as the log has them"
        )
    available_I[rows[is_there]] = False
    available_I[rows[is_there & available]] = True
    return available_I


def _columns(config: StockConfig, path: Path) -> tuple[pa.Array, np.ndarray]:
    """Item ids, and whether each row says that the item can be had."""
    try:
        if path.suffix in (".parquet", ".pq"):
            table = pq.read_table(path)
        else:
            as_text = csv.ConvertOptions(column_types={config.item_id: pa.string()}, strings_can_be_null=True)
            table = csv.read_csv(path, convert_options=as_text)
    except FileNotFoundError as error:
        raise StockError(f"{path}: there is no such file (serving.filters.stock.file)") from error
    except (OSError, pa.ArrowException) as error:
        raise StockError(f"{path}: cannot be read as a table: {error}") from error
    for key, name in (("item_id", config.item_id), ("available", config.available)):
        if name not in table.column_names:
            raise StockError(
                f"{path}: has no column {name!r} (serving.filters.stock.{key}); it has {', '.join(table.column_names)}"
            )
    ids = table[config.item_id].cast(pa.string()).combine_chunks()
    if ids.null_count:
        raise StockError(f"{path}: row {pc.index(pc.is_null(ids), True).as_py()} has no item id")
    return ids, _is_available(table[config.available], f"{path}, column {config.available!r}")


def _is_available(column: pa.ChunkedArray, where: str) -> np.ndarray:
    if pa.types.is_boolean(column.type):
        return column.fill_null(False).to_numpy().astype(bool)
    if pa.types.is_integer(column.type) or pa.types.is_floating(column.type):
        return np.nan_to_num(column.cast(pa.float64()).fill_null(0.0).to_numpy()) > 0
    if pa.types.is_null(column.type):
        return np.zeros(len(column), bool)
    if not (pa.types.is_string(column.type) or pa.types.is_large_string(column.type)):
        raise StockError(f"{where}: must be true or false, or a number of pieces, got {column.type}")
    words = [(word or "").strip().lower() for word in column.to_pylist()]
    for row, word in enumerate(words):
        if word not in _TRUE and word not in _FALSE:
            raise StockError(f"{where}, row {row}: must be true or false, or a number of pieces, got {word!r}")
    return np.array([word in _TRUE for word in words], bool)


def watch_stock(config: StockConfig, read: Callable[[], np.ndarray], on_change: Callable[[np.ndarray], None]) -> None:
    """Read the file now, and again whenever it changes, in a thread of its own that lives as long as the process. A
    table that cannot be used by then changes nothing: the last good one stays.

    Args:
        read: reads the file as it is now.
        on_change: gets each new mask [I], which never changes.
    Raises: StockError if the file cannot be used at the start.
    """
    seen = _fingerprint(Path(config.file))
    on_change(read())
    Thread(target=_watch, args=(config, seen, read, on_change), name="stock", daemon=True).start()


def _watch(
    config: StockConfig,
    seen: tuple[int, ...] | None,
    read: Callable[[], np.ndarray],
    on_change: Callable[[np.ndarray], None],
) -> None:
    while True:
        time.sleep(config.poll_seconds)
        now = _fingerprint(Path(config.file))
        if now == seen:
            continue
        seen = now
        try:
            mask_I = read()
        except Exception as error:  # whatever is wrong with it, the last good table goes on
            metrics.count("cascade_stock_reads_total", outcome="refused")
            _log.error("the stock table is not used, the last good one stays: %s", error)
            continue
        on_change(mask_I)
        metrics.count("cascade_stock_reads_total", outcome="used")
        _log.info("stock read again: %d of %d items can be had", int(mask_I.sum()), len(mask_I))


def _fingerprint(path: Path) -> tuple[int, ...] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino
