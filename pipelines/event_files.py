"""Events from a file or a stream, row by row, as the client sends them."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any

from features.errors import CascadeError

COLUMNS = ("event_id", "user_id", "item_id", "timestamp")
PRICE = "price"
STANDARD_INPUT = Path("-")
FileEvent = tuple[str, str, str, int, dict[str, Any]]
"""Event id, user id, item id, Unix seconds, attributes."""
_BYTES_PER_READ = 1 << 16
_ROWS_PER_READ = 4_096
_PER_SECOND = {"s": 1, "ms": 1_000, "us": 1_000_000}


class EventFileError(CascadeError, ValueError):
    """A row that is no event; the message says which one, what it needs and what came."""


@dataclass(frozen=True)
class EventFormat:
    """How the columns are read."""

    timestamp_unit: str = "s"
    """s, ms, us or iso8601."""
    attributes: tuple[str, ...] | None = None
    """Columns sent beside COLUMNS; None for all."""

    def event(self, row: Mapping[str, Any], where: str) -> FileEvent:
        """The event of a row.

        Raises: EventFileError.
        """
        if missing := [name for name in COLUMNS if row.get(name) in (None, "")]:
            raise EventFileError(f"{where}: has no {missing[0]}; an event needs {', '.join(COLUMNS)}")
        names = [name for name in row if name not in COLUMNS] if self.attributes is None else self.attributes
        attributes = {name: _attribute(name, row.get(name), where) for name in names if row.get(name) not in (None, "")}
        event_id, user_id, item_id = (_id(row[name], name, where) for name in COLUMNS[:3])
        return event_id, user_id, item_id, self._moment(row["timestamp"], where), attributes

    def _moment(self, value: Any, where: str) -> int:
        try:
            if isinstance(value, datetime):
                moment = value
            elif self.timestamp_unit == "iso8601":
                moment = datetime.fromisoformat(value)
            else:
                return int(value) // _PER_SECOND[self.timestamp_unit]
            return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp())
        except (ValueError, TypeError, OverflowError) as error:
            raise EventFileError(
                f"{where}: timestamp must be a time in {self.timestamp_unit}, got {value!r:.60}; --timestamp-unit says "
                "in which form it is"
            ) from error


def batches(path: Path, form: EventFormat, size: int) -> Iterator[list[FileEvent | EventFileError]]:
    """The file's events, at most `size` at a time; in place of a row that is none, what is wrong with it.

    Standard input is given out as it comes: a batch ends where no further line is there yet.
    """
    for rows in _groups(path, size):
        yield [_event_or_error(form, where, row) for where, row in rows]


def file_events(
    path: Path, timestamp_unit: str = "s", attributes: tuple[str, ...] | None = None
) -> Iterator[tuple[str, str, int, dict[str, Any]]]:
    """User id, item id, Unix seconds and attributes of each event of a file; they need no id to be read.

    Args:
        attributes: columns to read beside them; None for all.
    Raises: EventFileError for a row that is no event.
    """
    for batch in batches(path, _BareFormat(timestamp_unit, attributes), _ROWS_PER_READ):
        for event in batch:
            if isinstance(event, EventFileError):
                raise event
            yield event[1:]


class _BareFormat(EventFormat):
    """Events need no id to be joined."""

    def event(self, row: Mapping[str, Any], where: str) -> FileEvent:
        return super().event({"event_id": "-"} | {name: value for name, value in row.items() if value}, where)


def columns_of(events: Sequence[FileEvent]) -> dict[str, Any]:
    """The arguments of `RecommendClient.push_events`."""
    names = ("event_ids", "user_ids", "item_ids", "timestamps", "attributes")
    columns: dict[str, Any] = dict(zip(names, map(list, zip(*events, strict=True)), strict=True))
    return columns if any(columns["attributes"]) else columns | {"attributes": None}


def _event_or_error(form: EventFormat, where: str, row: Any) -> FileEvent | EventFileError:
    try:
        return form.event(_object(row, where) if isinstance(row, str) else row, where)
    except EventFileError as error:
        return error


def _groups(path: Path, size: int) -> Iterator[list[tuple[str, Any]]]:
    """Rows, each with where it stands: a mapping, or a line of JSON."""
    if path != STANDARD_INPUT:
        rows = _rows(path)
        while group := list(islice(rows, size)):
            yield group
        return
    number = 0
    for lines in _as_they_come(sys.stdin.fileno()):
        named = [(f"standard input, line {place}", line) for place, line in enumerate(lines, number + 1)]
        number += len(lines)
        named = [(where, line) for where, line in named if line.strip()]
        for begin in range(0, len(named), size):
            yield named[begin : begin + size]


def _rows(path: Path) -> Iterator[tuple[str, Any]]:
    if path.suffix == ".parquet":
        yield from _parquet_rows(path)
        return
    with path.open(newline="" if path.suffix == ".csv" else None, encoding="utf-8") as stream:
        if path.suffix == ".csv":
            for number, row in enumerate(csv.DictReader(stream, restkey="more than the header names"), 2):
                yield f"{path}, line {number}", row
        else:
            for number, line in enumerate(stream, 1):
                if line.strip():
                    yield f"{path}, line {number}", line


def _as_they_come(descriptor: int) -> Iterator[list[str]]:
    """The whole lines that are there, whenever some are."""
    rest = b""
    while read := os.read(descriptor, _BYTES_PER_READ):
        *lines, rest = (rest + read).split(b"\n")
        yield [line.decode(errors="replace") for line in lines]
    yield [rest.decode(errors="replace")] if rest else []


def _object(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise EventFileError(f"{where}: must be a JSON object, got {line[:60]!r} ({error})") from error
    if not isinstance(row, dict):
        raise EventFileError(f"{where}: must be a JSON object, got {line[:60]!r}")
    return row


def _parquet_rows(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    import pyarrow.parquet as pq

    number = 0
    with pq.ParquetFile(path) as file:
        for batch in file.iter_batches(4_096):
            for row in batch.to_pylist():
                number += 1
                yield f"{path}, row {number}", row


def _id(value: Any, name: str, where: str) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)):
        raise EventFileError(f"{where}: {name} must be a text or an integer, got {value!r:.60}")
    return str(value)


def _attribute(name: str, value: Any, where: str) -> Any:
    if name != PRICE:
        return value if isinstance(value, str) else str(value)
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise EventFileError(f"{where}: {PRICE} must be a number, got {value!r:.60}") from error
