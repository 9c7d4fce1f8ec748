"""Reads the wanted columns of a CSV, TSV or Parquet file, block by block, before any conversion."""

import csv
import difflib
import io
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq

from features.logs.contract import LogError
from features.logs.text_file import TextBlock, TextFormat, text_blocks

PARQUET_EXTENSIONS = {".parquet", ".pq"}
COMPRESSED_EXTENSIONS = {".gz", ".bz2", ".zst", ".lz4"}
TAB_EXTENSIONS = {".tsv", ".tab"}
PARQUET_BATCH_ROWS = 1 << 17
MAX_HEADER_BYTES = 1 << 20
GUARD = b"guard\n"
"""A record put behind the records to be parsed."""


@dataclass(frozen=True)
class RawBlock:
    """Some rows of a file. `columns` has the wanted columns of its well-formed rows, as binary (text files) or with the
    file's own types (Parquet); `lines` their line numbers; `text` gives the raw row by its index in `columns`.
    `malformed` holds the other rows: (line, reason, raw row).
    """

    columns: pa.Table
    lines: np.ndarray
    text: Callable[[int], str]
    malformed: list[tuple[int, str, str]]

    @property
    def num_rows(self) -> int:
        """All rows of the block, the malformed ones included."""
        return self.columns.num_rows + len(self.malformed)


@dataclass(frozen=True)
class RawFile:
    """Where a table stands and how it is written."""

    path: Path
    delimiter: str | None
    """None: a tab for .tsv and .tab, else a comma."""
    quote: str
    column_names: tuple[str, ...]
    """Names for a file without a header line; empty if the first line is the header."""

    def blocks(self, wanted: dict[str, str]) -> Iterator[RawBlock]:
        """Read the file once.

        Args:
            wanted: config key -> name of the column in the file; several keys may want one column.
        Raises: LogError if the file is missing, damaged or empty, or lacks a wanted column.
        """
        if self.path.suffix.lower() in PARQUET_EXTENSIONS:
            yield from _parquet_blocks(self.path, wanted)
            return
        try:
            with pa.input_stream(str(self.path), compression="detect") as stream:
                yield from self._text_blocks(io.BufferedReader(stream), wanted)  # type: ignore[arg-type]
        except (OSError, EOFError) as error:
            raise LogError(f"{self.path}: cannot be read to its end ({error}); is it whole? Copy it again") from error

    def _text_blocks(self, stream: BinaryIO, wanted: dict[str, str]) -> Iterator[RawBlock]:
        suffixes = [suffix.lower() for suffix in self.path.suffixes if suffix.lower() not in COMPRESSED_EXTENSIONS]
        by_extension = "\t" if suffixes and suffixes[-1] in TAB_EXTENSIONS else ","
        delimiter = self.delimiter or by_extension
        names, num_header_lines = list(self.column_names), 0
        if not names:
            names, num_header_lines = self._header(stream, delimiter), 1
        _check_columns(self.path, names, wanted)
        text_format = TextFormat(str(self.path), delimiter, self.quote, len(names))
        for block in text_blocks(stream, text_format, first_line=1 + num_header_lines):
            yield _parse(block, text_format, names, list(dict.fromkeys(wanted.values())))

    def _header(self, stream: BinaryIO, delimiter: str) -> list[str]:
        raw = stream.readline(MAX_HEADER_BYTES)
        if not raw.strip():
            raise LogError(f"{self.path}: the file is empty; expected a header line and rows")
        try:
            line = raw.decode("utf-8-sig").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise LogError(
                f"{self.path}: the header line is not UTF-8 text ({error}); expected a text table. Convert the file to "
                "UTF-8; if it is Parquet or compressed, give it the extension .parquet or .gz"
            ) from error
        if not self.quote:
            return line.split(delimiter)
        return next(csv.reader([line], delimiter=delimiter, quotechar=self.quote))


def _check_columns(path: Path, names: Sequence[str], wanted: dict[str, str]) -> None:
    """LogError unless each wanted column is in the file exactly once."""
    for key, column in wanted.items():
        found = list(names).count(column)
        if found == 1:
            continue
        if found > 1:
            raise LogError(f"{path}: {found} columns are called {column!r} ({key}); rename all but one")
        near = difflib.get_close_matches(column, names, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        if len(names) == 1:
            hint += "; the whole header was read as one column: set the delimiter"
        raise LogError(f"{path}: no column {column!r} ({key}); the file has: {', '.join(map(repr, names))}{hint}")


def _parse(block: TextBlock, text_format: TextFormat, names: list[str], wanted: list[str]) -> RawBlock:
    malformed = [(int(block.lines[record]), reason, block.text(record)) for record, reason in block.bad]
    records = np.setdiff1d(np.arange(len(block.starts)), [record for record, _ in block.bad], assume_unique=True)
    tables, good, wrong = [], [], _short_rows_of_other_bytes(block, records, text_format)
    records = np.setdiff1d(records, [record for record, _ in wrong], assume_unique=True)
    _parse_records(block, records, text_format, names, wanted, tables, good, wrong)
    malformed += [(int(block.lines[record]), reason, block.text(record)) for record, reason in wrong]
    kept = np.concatenate(good) if good else np.zeros(0, np.int64)
    columns = pa.concat_tables(tables) if tables else pa.table({name: pa.array([], pa.binary()) for name in wanted})
    return RawBlock(columns, block.lines[kept], lambda row: block.text(int(kept[row])), sorted(malformed))


def _short_rows_of_other_bytes(block: TextBlock, records: np.ndarray, text_format: TextFormat) -> list[tuple[int, str]]:
    """Records that are not UTF-8 and have a wrong number of columns: Arrow fails on them, and tells nothing."""
    if not len(records) or _is_utf8(block.take(records)):
        return []
    found = []
    for record in records.tolist():
        raw = block.take(np.array([record]))
        if _is_utf8(raw):
            continue
        text = raw.decode("latin-1").removesuffix("\n")
        num_columns = text.count(text_format.delimiter) + 1
        if text_format.quote:
            num_columns = len(
                next(csv.reader([text], delimiter=text_format.delimiter, quotechar=text_format.quote), [])
            )
        if num_columns != text_format.num_columns:
            found.append((record, f"{text_format.num_columns} columns expected, {num_columns} found"))
    return found


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True


def _parse_records(
    block: TextBlock,
    records: np.ndarray,
    text_format: TextFormat,
    names: list[str],
    wanted: list[str],
    tables: list[pa.Table],
    good: list[np.ndarray],
    wrong: list[tuple[int, str]],
) -> None:
    """Parse some records into `tables` and `good` (their indices), or `wrong`. If a quote inside a value glues records
    together, halve the run until the guilty record stands alone."""
    if not len(records):
        return
    table, invalid = _read_csv(block.take(records) + GUARD, text_format, names, wanted)
    if table.num_rows + len(invalid) == len(records):
        wrong += [(int(records[row]), reason) for row, reason in invalid]
        tables.append(table)
        good.append(np.delete(records, [row for row, _ in invalid]))
    elif len(records) == 1:
        wrong.append((int(records[0]), "quote is opened and not closed"))
    else:
        half = len(records) // 2
        _parse_records(block, records[:half], text_format, names, wanted, tables, good, wrong)
        _parse_records(block, records[half:], text_format, names, wanted, tables, good, wrong)


def _read_csv(
    data: bytes, text_format: TextFormat, names: list[str], wanted: list[str]
) -> tuple[pa.Table, list[tuple[int, str]]]:
    """Wanted columns as binary, and the rows with a wrong number of columns: (row, reason). The data's last record is a
    guard that is not returned: an open quote before it swallows it, which shows as a row too few."""
    invalid: list[tuple[int, str]] = []

    def skip(row: pa.csv.InvalidRow) -> str:
        invalid.append((row.number - 1, f"{row.expected_columns} columns expected, {row.actual_columns} found"))
        return "skip"

    table = pa.csv.read_csv(
        pa.BufferReader(data),
        pa.csv.ReadOptions(column_names=names, block_size=len(data) + 1, use_threads=False),
        pa.csv.ParseOptions(
            delimiter=text_format.delimiter,
            quote_char=text_format.quote or False,
            newlines_in_values=True,
            ignore_empty_lines=False,
            invalid_row_handler=skip,
        ),
        pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.binary()),
            include_columns=wanted,
            strings_can_be_null=False,
            check_utf8=False,
        ),
    )
    if invalid and invalid[-1][0] == table.num_rows + len(invalid) - 1:
        return table, invalid[:-1]
    return table.slice(0, max(table.num_rows - 1, 0)), invalid


def _parquet_blocks(path: Path, wanted: dict[str, str]) -> Iterator[RawBlock]:
    try:
        file = pq.ParquetFile(path)
    except (pa.ArrowInvalid, OSError) as error:
        raise LogError(f"{path}: not a readable Parquet file ({error}); is it whole? Copy it again") from error
    with file:
        _check_columns(path, file.schema_arrow.names, wanted)
        row = 1
        for batch in file.iter_batches(PARQUET_BATCH_ROWS, columns=list(dict.fromkeys(wanted.values()))):
            columns = pa.table(batch)
            yield RawBlock(columns, np.arange(row, row + len(batch)), _row_text(columns), [])
            row += len(batch)


def _row_text(columns: pa.Table) -> Callable[[int], str]:
    return lambda row: json.dumps(columns.slice(row, 1).to_pylist()[0], default=str, ensure_ascii=False)
