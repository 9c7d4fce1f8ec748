"""Turns raw columns into ids, timestamps, numbers, categories and lists; says which rows cannot be turned.

Each function takes one column of a block and returns the converted column with `bad`, a boolean mask of the rows that
cannot be used; what stands in the converted column there has no meaning.
"""

from datetime import UTC, datetime
from typing import Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from features.logs.contract import LogError

TimestampUnit = Literal["s", "ms", "us"]
UNITS_PER_SECOND: dict[str, int] = {"s": 1, "ms": 1_000, "us": 1_000_000}
ISO_8601 = "iso8601"
MAX_ID_BYTES = 256
MAX_TIMESTAMP = 7_258_118_400
"""2200-01-01 in Unix seconds; a timestamp behind it almost surely has another unit."""
NUMBER = r"^[+-]?(\d{1,40}(\.\d{0,40})?|\.\d{1,40})([eE][+-]?\d{1,2})?$"
CONTROL_CHARACTER = r"[\x00-\x1f\x7f]"
LIST_TYPES = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)


def to_text(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, np.ndarray]:
    """Text as it stands, integers as decimal digits; null stays null. Bad: bytes that are not UTF-8.

    Args:
        column: binary, text, dictionary, integer, boolean, floating or time values.
        where: file, column and config key, for the message.
    Raises: LogError if the column's type has no text form, e.g. a struct.
    """
    array = _flat(column)
    if not pa.types.is_binary(array.type) and not pa.types.is_large_binary(array.type):
        try:
            return array.cast(pa.string()), np.zeros(len(array), bool)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise LogError(f"{where} has type {array.type}; expected text or numbers ({error})") from error
    try:
        return array.cast(pa.string()), np.zeros(len(array), bool)
    except pa.ArrowInvalid:
        bad = np.array([not _is_utf8(value.as_py()) for value in array], bool)
        return pc.if_else(pa.array(bad), pa.scalar(b"", array.type), array).cast(pa.string()), bad


def to_id(column: pa.ChunkedArray, where: str) -> tuple[pa.Array, list[tuple[np.ndarray, str]]]:
    """Ids as text, exactly as they stand (no trimming, leading zeros kept).

    Returns: the ids, and for each rule the rows that break it: (mask, reason).
    Raises: LogError if the column holds neither text nor integers.
    """
    kind = column.type.value_type if pa.types.is_dictionary(column.type) else column.type
    if not (_is_text(kind) or pa.types.is_integer(kind)):
        raise LogError(
            f"{where} has type {kind}; ids must be text or integers. Write the column as text or as int64 (a column of "
            "integers with missing values becomes floating when pandas writes it: drop those rows first)"
        )
    ids, not_utf8 = to_text(column, where)
    ids = ids.fill_null("")
    empty = _mask(pc.equal(pc.utf8_trim_whitespace(ids), "")) & ~not_utf8
    too_long = _mask(pc.greater(pc.binary_length(ids), MAX_ID_BYTES))
    control = _mask(pc.match_substring_regex(ids, CONTROL_CHARACTER)) & ~empty
    return ids, [
        (not_utf8, "not UTF-8 text"),
        (empty, "empty id"),
        (too_long, f"id longer than {MAX_ID_BYTES} bytes"),
        (control, "id with a control character"),
    ]


def to_timestamp(
    column: pa.ChunkedArray, where: str, unit: TimestampUnit, time_format: str | None
) -> tuple[np.ndarray, list[tuple[np.ndarray, str]]]:
    """Unix seconds, rounded down; times without a zone are UTC.

    Args:
        column: numbers in `unit`, as numbers or text; or text with dates as `time_format` says; or Parquet times and
            dates, for which neither counts.
        where: file, column and config key, for the message.
        unit: what one step of a number is.
        time_format: as for strptime, or "iso8601"; None for numbers.
    Returns: seconds int64, and for each rule the rows that break it: (mask, reason).
    """
    array = _flat(column)
    if pa.types.is_timestamp(array.type) or pa.types.is_date(array.type):
        seconds, unreadable = _seconds(array.cast(pa.timestamp("us", getattr(array.type, "tz", None))))
    elif time_format is not None:
        text, not_utf8 = to_text(column, where)
        seconds, unreadable = _parse_iso(text) if time_format == ISO_8601 else _parse_time(text, time_format, where)
        unreadable |= not_utf8
    else:
        numbers, unreadable = to_number(column, where)
        unreadable |= _mask(pc.is_null(numbers))
        steps = np.nan_to_num(numbers.to_numpy(zero_copy_only=False), nan=0.0)
        seconds = np.floor(np.clip(steps / UNITS_PER_SECOND[unit], -1.0, 2.0 * MAX_TIMESTAMP)).astype(np.int64)
    wanted = "a number" if time_format is None else f"a time of the form {time_format}"
    return seconds, [
        (unreadable, f"timestamp is not {wanted}"),
        (~unreadable & (seconds < 0), "timestamp before 1970"),
        (~unreadable & (seconds >= MAX_TIMESTAMP), "timestamp after the year 2199 (is timestamp_unit right?)"),
    ]


def to_number(column: pa.ChunkedArray, where: str, null_values: tuple[str, ...] = ("",)) -> tuple[pa.Array, np.ndarray]:
    """float64; null for a null value and for NaN. Bad: text that is no number, and infinity."""
    array = _flat(column)
    if not _is_text(array.type):
        try:
            numbers = array.cast(pa.float64(), safe=False)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            raise LogError(f"{where} has type {array.type}; expected numbers ({error})") from error
        not_a_number = np.zeros(len(array), bool)
    else:
        text, not_utf8 = to_text(column, where)
        text = pc.utf8_trim_whitespace(text)
        text = pc.if_else(pc.is_in(text, pa.array(null_values, pa.string())), pa.scalar(None, pa.string()), text)
        is_nan = pc.equal(pc.utf8_lower(text), "nan")
        text = pc.if_else(is_nan, pa.scalar(None, pa.string()), text)
        is_number = pc.match_substring_regex(text, NUMBER)
        not_a_number = ~_mask(is_number.fill_null(True)) | not_utf8
        numbers = pc.if_else(is_number, text, pa.scalar(None, pa.string())).cast(pa.float64())
    infinite = _mask(pc.is_inf(numbers))
    return pc.if_else(pc.is_finite(numbers), numbers, pa.scalar(None, pa.float64())), not_a_number | infinite


def to_category(column: pa.ChunkedArray, where: str, null_values: tuple[str, ...]) -> tuple[pa.Array, np.ndarray]:
    """Text; null for a null value. Bad: bytes that are not UTF-8."""
    text, bad = to_text(column, where)
    unknown = pc.is_in(text, pa.array(null_values, pa.string()))
    return pc.if_else(unknown, pa.scalar(None, pa.string()), text), bad


def to_list(
    column: pa.ChunkedArray, where: str, separator: str, null_values: tuple[str, ...]
) -> tuple[pa.Array, np.ndarray]:
    """list<string>: Parquet lists as they are, text split at the separator. Elements are trimmed; empty elements and
    null values are left out; an unknown list is empty. Bad: bytes that are not UTF-8."""
    array = _flat(column)
    if any(is_list(array.type) for is_list in LIST_TYPES):
        lists, bad = array, np.zeros(len(array), bool)
    else:
        text, bad = to_category(column, where, null_values)
        lists = pc.split_pattern(text.fill_null(""), separator)
    values, _ = to_text(pa.chunked_array([pc.list_flatten(lists)]), where)
    values = pc.utf8_trim_whitespace(values)
    keep = ~_mask(pc.is_in(values.fill_null(""), pa.array(("", *null_values), pa.string())))
    parents = pc.list_parent_indices(lists).to_numpy(zero_copy_only=False)[keep]
    offsets = np.concatenate([[0], np.cumsum(np.bincount(parents, minlength=len(lists)))])
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), values.filter(pa.array(keep))), bad


def _parse_time(text: pa.Array, time_format: str, where: str) -> tuple[np.ndarray, np.ndarray]:
    """Arrow reads plain dates at once. It is lenient (February 31 becomes March 2) and knows no fractions, so what does
    not come out of it as it went in is read by Python, one distinct text at a time."""
    try:
        datetime.strptime("", time_format)
    except ValueError as error:
        if "does not match" not in str(error):
            raise LogError(f"{where}: timestamp_format {time_format!r} cannot be used ({error})") from error
    text = text.fill_null("")
    times = pc.strptime(text, format=time_format, unit="s", error_is_null=True)
    seconds, unreadable = _seconds(times)
    unreadable |= ~_mask(pc.equal(pc.strftime(times, format=time_format), text).fill_null(False))
    rows = np.flatnonzero(unreadable)
    odd = text.take(pa.array(rows)).dictionary_encode()
    parsed = np.array([_time_seconds(value, time_format) for value in odd.dictionary.to_pylist()], np.float64)
    parsed = parsed[odd.indices.to_numpy(zero_copy_only=False)]
    seconds = seconds.copy()
    seconds[rows], unreadable[rows] = np.nan_to_num(np.floor(parsed)), np.isnan(parsed)
    return seconds, unreadable


def _parse_iso(text: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    for zone in (None, "UTC"):
        try:
            return _seconds(text.cast(pa.timestamp("us", zone)))
        except pa.ArrowInvalid:
            continue
    seconds = np.array([_time_seconds(value or "", None) for value in text.to_pylist()], np.float64)
    return np.nan_to_num(np.floor(seconds)).astype(np.int64), np.isnan(seconds)


def _time_seconds(value: str, time_format: str | None) -> float:
    """Unix seconds of a time as text, nan if it is none; without a format it is ISO 8601."""
    try:
        time = datetime.strptime(value, time_format) if time_format else datetime.fromisoformat(value.strip())
    except ValueError:
        return float("nan")
    return (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


def _seconds(times: pa.Array) -> tuple[np.ndarray, np.ndarray]:
    """Unix seconds, rounded down, and a mask of the nulls."""
    unreadable = _mask(pc.is_null(times))
    steps = times.cast(pa.int64()).fill_null(0).to_numpy(zero_copy_only=False)
    return steps // UNITS_PER_SECOND[times.type.unit], unreadable


def _flat(column: pa.ChunkedArray) -> pa.Array:
    array = column.combine_chunks()
    array = pa.concat_arrays(array.chunks) if isinstance(array, pa.ChunkedArray) else array
    return array.dictionary_decode() if isinstance(array, pa.DictionaryArray) else array


def _is_text(kind: pa.DataType) -> bool:
    return (
        pa.types.is_string(kind)
        or pa.types.is_large_string(kind)
        or pa.types.is_string_view(kind)
        or pa.types.is_binary(kind)
        or pa.types.is_large_binary(kind)
    )


def _is_utf8(value: bytes | None) -> bool:
    try:
        (value or b"").decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _mask(array: pa.Array) -> np.ndarray:
    return array.to_numpy(zero_copy_only=False).astype(bool)
