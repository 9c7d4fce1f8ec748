"""RotatedParquet: a folder of Parquet files of which only whole ones have their names, within a number of bytes.

Several processes may write into one folder: names carry the process, and whoever completes a file deletes the oldest.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

PREFIX = "requests-"

_UNFINISHED = ".unfinished-"  # readers of data sets leave out what starts with a dot
_ABANDONED_SECONDS = 600.0


class RotatedParquet:
    """Writes batches as row groups of a file, until it is sealed or discarded.

    Args:
        folder: made when the first file is.
        schema: with the metadata that each file carries.
        rows_per_file: rows after which a file is full.
        seconds_per_file: seconds after which it is due.
        max_bytes: of the whole files together.
    """

    def __init__(
        self, folder: Path, schema: pa.Schema, rows_per_file: int, seconds_per_file: float, max_bytes: int
    ) -> None:
        self._folder = folder
        self._schema = schema
        self._rows_per_file = rows_per_file
        self._seconds_per_file = seconds_per_file
        self._max_bytes = max_bytes
        self._writer: pq.ParquetWriter | None = None
        self._path = folder
        self._begun: float | None = None
        self._number = 0
        self.num_rows = 0
        """Rows of the file that is not complete yet."""

    def begin(self) -> None:
        """Start the clock of the next file, whose first row exists."""
        if self._begun is None:
            self._begun = time.monotonic()

    def seconds_left(self) -> float:
        """Until the file must be completed; 0 if it must be now."""
        if self._begun is None:
            return self._seconds_per_file
        return max(self._begun + self._seconds_per_file - time.monotonic(), 0.0)

    def write(self, batches: Sequence[pa.RecordBatch]) -> None:
        """Add a row group.

        Raises: OSError if the disk does not take it: `discard` what there is of the file.
        """
        self.begin()
        table = pa.Table.from_batches(batches, self._schema).combine_chunks()
        self._open().write_table(table, row_group_size=max(len(table), 1))
        self.num_rows += len(table)

    @property
    def is_full(self) -> bool:
        """Whether the file has the rows that a file should have."""
        return self.num_rows >= self._rows_per_file

    def seal(self) -> None:
        """Complete the file and give it its name; nothing if no row was written.

        Raises: OSError if the disk does not take it: `discard` what there is.
        """
        if self._writer:
            self._writer.close()
            now = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
            os.replace(self._path, self._folder / f"{PREFIX}{now}-{os.getpid()}-{self._number}.parquet")
            self._number += 1
        self._forget()
        self._make_room()

    def discard(self) -> int:
        """Give the file up.

        Returns: rows that are lost.
        """
        lost = self.num_rows
        if self._writer:
            with contextlib.suppress(OSError, pa.ArrowException):
                self._writer.close()
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        self._forget()
        return lost

    def _forget(self) -> None:
        self._writer, self._begun, self.num_rows = None, None, 0

    def _open(self) -> pq.ParquetWriter:
        if self._writer is None:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._path = self._folder / f"{_UNFINISHED}{os.getpid()}-{secrets.token_hex(4)}"
            self._writer = pq.ParquetWriter(self._path, self._schema, compression="zstd")
        return self._writer

    def _make_room(self) -> None:
        """Delete the oldest files beyond the limit, and what processes left behind that were killed."""
        whole = sorted(self._folder.glob(f"{PREFIX}*.parquet"), reverse=True)
        total = 0
        for path in whole:  # newest first: the names begin with the time
            total += _bytes_of(path)
            if total > self._max_bytes:
                path.unlink(missing_ok=True)
        oldest = time.time() - max(_ABANDONED_SECONDS, 2 * self._seconds_per_file)
        for path in self._folder.glob(f"{_UNFINISHED}*"):
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_mtime < oldest:
                    path.unlink()


def _bytes_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:  # another process was first
        return 0
