"""Splits a delimited text file into blocks of records with their line numbers, in bounded memory.

A record is one line, or several lines where a quoted value holds line breaks. A quote that is never closed costs only
its own line: it cannot swallow the rows behind it.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from features.logs.contract import LogError

BLOCK_BYTES = 16 << 20
MAX_LINE_BYTES = 64 << 20
MAX_RECORD_LINES = 1000
"""A quoted value may span this many lines; an open quote without a partner within them is an error of its line."""
NEWLINE, RETURN = 10, 13


@dataclass(frozen=True)
class TextFormat:
    """How a delimited text file is written."""

    file: str
    """Path of the file, for messages."""
    delimiter: str
    quote: str
    """One character, or "" if quotes have no meaning."""
    num_columns: int


@dataclass(frozen=True)
class TextBlock:
    """Some records of a file. `starts` and `ends` are byte offsets into `data`, without the line's end; `lines` are the
    numbers of the records' first lines, from 1. `bad` has the records that break a rule of the format: (index, reason).
    """

    data: np.ndarray
    starts: np.ndarray
    ends: np.ndarray
    lines: np.ndarray
    bad: list[tuple[int, str]]

    def text(self, record: int) -> str:
        """The record as it stands in the file; bytes that are not UTF-8 as backslash escapes."""
        raw = self.data[self.starts[record] : self.ends[record]].tobytes()
        return raw.decode("utf-8", "backslashreplace")

    def take(self, records: np.ndarray) -> bytes:
        """The given records (indices in ascending order, at least one), each ended by a line feed."""
        first, last = self.starts[records[0]], self.ends[records[-1]]
        if last - first + 1 == (self.ends[records] - self.starts[records] + 1).sum():
            return self.data[first:last].tobytes() + b"\n"
        data = self.data[first:last].tobytes()
        spans = zip((self.starts[records] - first).tolist(), (self.ends[records] - first).tolist(), strict=True)
        return b"".join(data[start:end] + b"\n" for start, end in spans)


def text_blocks(stream: BinaryIO, text_format: TextFormat, first_line: int) -> Iterator[TextBlock]:
    """Read a stream to its end in blocks of about `BLOCK_BYTES`.

    Args:
        stream: gives bytes, positioned behind the header.
        text_format: how the file is written.
        first_line: number of the line at which the stream stands.
    Raises: LogError if a line is longer than `MAX_LINE_BYTES`: such a file is no text table.
    """
    carry, line = b"", first_line
    while True:
        chunk = stream.read(BLOCK_BYTES)
        data = carry + chunk
        at_end = not chunk
        if at_end and data and not data.endswith(b"\n"):
            data += b"\n"
        cut = data.rfind(b"\n") + 1
        if len(data) - cut > MAX_LINE_BYTES:
            raise LogError(
                f"{text_format.file}: line {line} or a later one is longer than {MAX_LINE_BYTES} bytes; expected a "
                "text table with one row a line. If the file is Parquet, give it the extension .parquet"
            )
        block, num_bytes, num_lines = _split(np.frombuffer(data[:cut], np.uint8), text_format, line, at_end)
        if len(block.starts):
            yield block
        if at_end:
            return
        carry, line = data[num_bytes:], line + num_lines


def _split(data: np.ndarray, text_format: TextFormat, first_line: int, at_end: bool) -> tuple[TextBlock, int, int]:
    """Whole records of a run of whole lines, and how many bytes and lines they take."""
    feeds = np.flatnonzero(data == NEWLINE)
    starts = np.concatenate([np.zeros(min(len(feeds), 1), np.int64), feeds[:-1] + 1])
    odd = _odd_quote_lines(data, feeds, text_format.quote)
    joined, open_lines, unfinished = _join_lines(data, starts, feeds, odd, text_format, at_end)
    if unfinished is not None:
        starts, feeds = starts[:unfinished], feeds[:unfinished]
    ends = feeds - ((feeds > starts) & (data[feeds - 1] == RETURN))
    keep = ends > starts
    num_lines = len(feeds)
    for first, last in joined:
        ends[first] = ends[last]
        keep[first], keep[first + 1 : last + 1] = True, False
    records = np.flatnonzero(keep)
    record_of_line = np.cumsum(keep) - 1
    bad = {int(record_of_line[line]): "quote is opened and not closed" for line in open_lines}
    returns = np.flatnonzero(data[: feeds[-1] if num_lines else 0] == RETURN)
    returns = returns[data[returns + 1] != NEWLINE]
    for line in np.unique(np.searchsorted(feeds, returns)).tolist():
        bad.setdefault(int(record_of_line[line]), "carriage return inside a row")
    used = int(feeds[-1]) + 1 if num_lines else 0
    block = TextBlock(data[:used], starts[records], ends[records], first_line + records, sorted(bad.items()))
    return block, used, num_lines


def _odd_quote_lines(data: np.ndarray, feeds: np.ndarray, quote: str) -> list[int]:
    """Lines with an odd number of quotes: a quoted value begins there and does not end, or the other way round."""
    if not quote:
        return []
    quotes = np.flatnonzero(data == ord(quote))
    counts = np.bincount(np.searchsorted(feeds, quotes), minlength=len(feeds))
    return np.flatnonzero(counts[: len(feeds)] & 1).tolist()


def _join_lines(
    data: np.ndarray, starts: np.ndarray, feeds: np.ndarray, odd: list[int], text_format: TextFormat, at_end: bool
) -> tuple[list[tuple[int, int]], list[int], int | None]:
    """Pairs (first line, last line) that make one record, lines with an open quote, and the line from which the next
    block must go on (None: all lines are settled)."""
    joined, open_lines, position = [], [], 0
    while position < len(odd):
        first = odd[position]
        if position + 1 == len(odd) and not at_end and len(feeds) - first <= MAX_RECORD_LINES:
            return joined, open_lines, first
        last = odd[position + 1] if position + 1 < len(odd) else None
        if (
            last is not None
            and last - first < MAX_RECORD_LINES
            and _is_record(data[starts[first] : feeds[last]].tobytes(), text_format)
        ):
            joined.append((first, last))
            position += 2
        else:
            open_lines.append(first)
            position += 1
    return joined, open_lines, None


def _is_record(raw: bytes, text_format: TextFormat) -> bool:
    """True if these lines are one well-formed record with the right number of columns."""
    lines = raw.decode("latin-1").splitlines(keepends=True)
    reader = csv.reader(lines, delimiter=text_format.delimiter, quotechar=text_format.quote, strict=True)
    try:
        rows = list(reader)
    except csv.Error:
        return False
    return len(rows) == 1 and len(rows[0]) == text_format.num_columns
