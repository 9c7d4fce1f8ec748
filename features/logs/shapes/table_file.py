"""Writes one table to one file, block by block: comma or tab separated text, plain or gzip, or Parquet."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path
from typing import BinaryIO, cast

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

ROW_GROUP_ROWS = 250_000
GZIP_LEVEL = 1
"""The fastest: made logs are read once or twice."""


class TableFile:
    """A file that takes blocks of rows; a context manager. The same blocks give the same bytes."""

    def __init__(self, path: Path, schema: pa.Schema, *, header: bool = True) -> None:
        """Open the file.

        Args:
            path: its extensions say the form: .csv, .tsv, .csv.gz, .tsv.gz or .parquet.
            schema: columns of every block. In text a null is empty, and text is quoted where it must be.
            header: whether a text file begins with the names of the columns.
        """
        self.path, self.schema, self.num_rows = path, schema, 0
        self._pending: list[pa.Table] = []
        self._parquet: pq.ParquetWriter | None = None
        self._text: BinaryIO | None = None
        if path.suffix == ".parquet":
            # Plain types to every reader: without Arrow's own schema, text stays text however it was encoded here.
            self._parquet = pq.ParquetWriter(path, schema, compression="zstd", store_schema=False)
            return
        self._raw = path.open("wb")
        packed = path.suffix == ".gz"
        if packed:  # neither name nor time in it: the same rows give the same bytes
            self._text = cast(BinaryIO, gzip.GzipFile("", "wb", GZIP_LEVEL, self._raw, mtime=0))
        else:
            self._text = self._raw
        self.delimiter = "\t" if ".tsv" in path.suffixes else ","
        if header:
            self._text.write((self.delimiter.join(schema.names) + "\n").encode())

    def write(self, block: pa.Table) -> None:
        """Append rows; a Parquet file cuts them into groups of `ROW_GROUP_ROWS`."""
        self.num_rows += block.num_rows
        if not block.num_rows:
            return
        if self._text is not None:
            self._text.write(self._as_text(block))
            return
        self._pending.append(block)
        while self._parquet is not None and sum(part.num_rows for part in self._pending) >= ROW_GROUP_ROWS:
            rows = pa.concat_tables(self._pending)
            self._parquet.write_table(rows.slice(0, ROW_GROUP_ROWS), ROW_GROUP_ROWS)
            self._pending = [rows.slice(ROW_GROUP_ROWS)]

    def close(self) -> None:
        """Write what is pending and close the file."""
        if self._parquet is not None:
            rows = pa.concat_tables(self._pending) if self._pending else self.schema.empty_table()
            if rows.num_rows or not self.num_rows:
                self._parquet.write_table(rows, ROW_GROUP_ROWS)
            self._parquet.close()
        elif self._text is not None:
            self._text.close()
            self._raw.close()

    def _as_text(self, block: pa.Table) -> pa.Buffer | bytes:
        block = block.combine_chunks()  # Arrow 24 writes what its buffer held before for an empty chunk
        sink = pa.BufferOutputStream()
        options = pa_csv.WriteOptions(include_header=False, delimiter=self.delimiter, quoting_style="none")
        try:
            pa_csv.write_csv(_with_points(block), sink, options)
            return sink.getvalue()
        except pa.ArrowInvalid:  # some text needs quotes; Arrow either refuses it or quotes everything
            text = io.StringIO()
            rows = zip(*(column.to_pylist() for column in block.columns), strict=True)
            csv.writer(text, delimiter=self.delimiter, lineterminator="\n").writerows(rows)
            return text.getvalue().encode()

    def __enter__(self) -> TableFile:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()


def _with_points(block: pa.Table) -> pa.Table:
    """Floating columns as text in which whole numbers end in ".0", as pandas writes them."""
    for place, field in enumerate(block.schema):
        if pa.types.is_floating(field.type):
            text = block.column(place).cast(pa.string())
            whole = pc.match_substring_regex(text, r"^-?\d+$")
            text = pc.if_else(whole, pc.binary_join_element_wise(text, ".0", ""), text)
            block = block.set_column(place, field.name, text)
    return block
