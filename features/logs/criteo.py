"""Adapter `criteo`: the display advertising logs in the form that Criteo published, with the label of each impression.

Two data sets have this form: `train.txt` of the Kaggle competition (7 days, 45.8 million rows), and the 1TB click logs,
a file a day (`day_0` to `day_23`). A row is label, I1..I13, C1..C26, between tabs and without a header line; what is
missing is empty. Parquet files with columns of these names are read too, those with hashed categories included.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass as config_dataclass

from features.logs.contract import LogError
from features.logs.impression_values import to_category, to_integer, to_label
from features.logs.impressions import ImpressionBlock, ImpressionColumns
from features.logs.quarantine import Quarantine
from features.logs.raw_table import PARQUET_EXTENSIONS, RawBlock, RawFile
from features.logs.scramble import scrambled64
from features.logs.table_config import expanded_path
from features.split import TEST, TRAIN, VALID

CRITEO_COLUMNS = ImpressionColumns(
    "label", tuple(f"I{number}" for number in range(1, 14)), tuple(f"C{number}" for number in range(1, 27))
)
DAY = re.compile(r"day_(\d+)(\..+)?")
"""Name of a day's file or folder in the 1TB logs, e.g. day_0, day_0.gz, day_0.parquet."""
SUSPICIOUS_ROWS = 1000
"""A block of so many rows without a good one shows that the file is not what it should be."""
NonEmpty = Annotated[str, Field(min_length=1)]


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class CriteoConfig:
    """Where the impressions stand, and which of them train, validate and test."""

    train: NonEmpty
    """File, or folder of files: tab separated text, also compressed (.gz, .bz2, .zst, .lz4), or Parquet. ${NAME} stands
    for an environment variable (CASCADE_DATA is ../shared/data unless set), ~ for the home folder; a relative path
    counts from the working directory."""
    valid: NonEmpty | None = None
    """File or folder of the validation rows; with split "files" only."""
    test: NonEmpty | None = None
    """File or folder of the test rows; with split "files" only."""
    split: Literal["files", "days", "random"] = "random"
    """"files": train, valid and test name the parts. "days": train is a folder with day_0, day_1, ...; all but the last
    day train, the first half of the last day validates, the second half tests. "random": each row of train falls
    into a part by a hash of its file's name and its line number."""
    valid_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the rows that validate, with split "random"."""
    test_share: Annotated[float, Field(gt=0, lt=0.5)] = 0.1
    """Share of the rows that test, with split "random"."""
    seed: Annotated[int, Field(ge=0)] = 1
    """Seed of the split "random"; the same seed gives each row the same part, whatever else is in the folder."""

    @model_validator(mode="after")
    def _files_belong_to_the_split(self) -> CriteoConfig:
        named = [name for name in ("valid", "test") if getattr(self, name) is not None]
        if self.split == "files" and len(named) < 2:
            raise ValueError('split = "files" needs valid and test; name both, or set split to "days" or "random"')
        if self.split != "files" and named:
            raise ValueError(
                f'split = "{self.split}" takes all rows from train, but {" and ".join(named)} is set; set split to '
                f'"files", or remove {" and ".join(named)}'
            )
        return self


def criteo_files(config: CriteoConfig) -> list[Path]:
    """All files, in the order in which they are read.

    Raises: LogError if one is missing, is named for two parts, or the days are not as split "days" needs them.
    """
    return [source.file.path for source in _sources(config)]


def criteo_blocks(config: CriteoConfig, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
    """Read all files once, block by block, in bounded memory. Rows that cannot be used go to the quarantine, as table
    "impressions"; the sum of `rows_read` is all rows of the files.

    Raises: LogError if a file is missing, damaged or empty, a column is missing or has an impossible type, or a file
        does not hold such rows at all.
    """
    for source in _sources(config):
        wanted = {f"data.criteo.{source.key}: {name}": name for name in CRITEO_COLUMNS.names}
        for raw in source.file.blocks(wanted):
            yield _impressions(raw, source, quarantine)


@dataclass(frozen=True)
class _Source:
    """A file, the key that names it, and which part its rows belong to: line numbers [N] -> [N] int8."""

    file: RawFile
    key: str
    part_of: Callable[[np.ndarray], np.ndarray]


def _sources(config: CriteoConfig) -> list[_Source]:
    if config.split == "days":
        return _day_sources(expanded_path(config.train, "data.criteo.train"), config)
    if config.split == "random":
        paths = _files(expanded_path(config.train, "data.criteo.train"), "train")
        return [_Source(_raw_file(path), "train", _random_part(path.name, config)) for path in paths]
    sources, keys = [], {}
    for key, part in (("train", TRAIN), ("valid", VALID), ("test", TEST)):
        for path in _files(expanded_path(getattr(config, key), f"data.criteo.{key}"), key):
            other = keys.setdefault(path.resolve(), key)
            if other != key:
                raise LogError(
                    f"{path}: named by data.criteo.{other} and by data.criteo.{key}; a row belongs to one part only. "
                    'Name different files, or set data.criteo.split to "random"'
                )
            sources.append(_Source(_raw_file(path), key, _constant_part(part)))
    return sources


def _day_sources(folder: Path, config: CriteoConfig) -> list[_Source]:
    """Source: mlcommons/inference, recommendation/dlrm_v2: validation is the first half of day_23, the test its second
    half. (The scripts of the first DLRM benchmark take the halves the other way round.)"""
    if not folder.is_dir():
        raise LogError(f'{folder}: not a folder (data.criteo.train = {config.train!r}); split "days" needs one of days')
    days: dict[int, Path] = {}
    for path in _visible(folder):
        match = DAY.fullmatch(path.name)
        if match is None or int(match[1]) in days:
            why = "is no day" if match is None else f"is the same day as {days[int(match[1])].name}"
            raise LogError(
                f'{path}: {why} (data.criteo.train); split "days" needs a folder with nothing but day_0, day_1, ... '
                "(with or without an extension), each once. Move the file away, or change data.criteo.split"
            )
        days[int(match[1])] = path
    if len(days) < 2:
        raise LogError(f'{folder}: {len(days)} days (data.criteo.train); split "days" needs at least day_0 and day_1')
    *early, last = [_files(days[day], "train") for day in sorted(days)]
    sources = [_Source(_raw_file(path), "train", _constant_part(TRAIN)) for paths in early for path in paths]
    return sources + [
        _Source(_raw_file(path), "train", _half_part(last, position)) for position, path in enumerate(last)
    ]


def _files(path: Path, key: str) -> list[Path]:
    """The file itself, or the files of the folder in natural order: part_2 before part_10."""
    paths = [child for child in _visible(path) if child.is_file()] if path.is_dir() else [path]
    if not paths or not paths[0].is_file():
        what = "there is no file in the folder" if path.is_dir() else "there is no such file"
        raise LogError(f"{path}: {what} (data.criteo.{key}, working directory {Path.cwd()}); correct the path")
    return paths


def _visible(folder: Path) -> list[Path]:
    def natural(path: Path) -> list[tuple[int, str]]:
        return [(int(text), "") if text.isdecimal() else (-1, text) for text in re.split(r"(\d+)", path.name)]

    return sorted((child for child in folder.iterdir() if child.name[0] not in "._"), key=natural)


def _raw_file(path: Path) -> RawFile:
    return RawFile(path, "\t", "", CRITEO_COLUMNS.names)


def _constant_part(part: int) -> Callable[[np.ndarray], np.ndarray]:
    return lambda lines: np.full(len(lines), part, np.int8)


def _random_part(name: str, config: CriteoConfig) -> Callable[[np.ndarray], np.ndarray]:
    digest = hashlib.sha256(f"{config.seed}/{name}".encode()).digest()
    key = np.uint64(int.from_bytes(digest[:8], "little"))

    def part_of(lines: np.ndarray) -> np.ndarray:
        place = scrambled64(lines.astype(np.uint64) ^ key).astype(np.float64) / 2.0**64
        is_test = place < config.test_share
        is_valid = ~is_test & (place < config.test_share + config.valid_share)
        return np.select([is_test, is_valid], [TEST, VALID], TRAIN).astype(np.int8)

    return part_of


def _half_part(paths: list[Path], position: int) -> Callable[[np.ndarray], np.ndarray]:
    """The last day is counted when its first row is asked for; of an odd number the first half has one more."""
    lines_before_half: list[int] = []

    def part_of(lines: np.ndarray) -> np.ndarray:
        if not lines_before_half:
            counts = [_num_lines(path) for path in paths]
            lines_before_half.append((sum(counts) + 1) // 2 - sum(counts[:position]))
        return np.where(lines <= lines_before_half[0], VALID, TEST).astype(np.int8)

    return part_of


def _num_lines(path: Path) -> int:
    """Lines of a text file, rows of a Parquet file."""
    if path.suffix.lower() in PARQUET_EXTENSIONS:
        return pq.read_metadata(path).num_rows
    num_lines, last = 0, b"\n"
    with pa.input_stream(str(path), compression="detect") as stream:
        while chunk := stream.read(1 << 22):
            num_lines, last = num_lines + chunk.count(b"\n"), chunk[-1:]
    return num_lines + (last != b"\n")


def _impressions(raw: RawBlock, source: _Source, quarantine: Quarantine) -> ImpressionBlock:
    file = str(source.file.path)
    for line, reason, text in raw.malformed:
        quarantine.add("impressions", file, line, reason, text)
    columns, good = {}, np.ones(raw.columns.num_rows, bool)
    for name in CRITEO_COLUMNS.names:
        convert, reason = to_integer, "is not an integer"
        if name == CRITEO_COLUMNS.label:
            convert, reason = to_label, "is neither 0 nor 1"
        elif name in CRITEO_COLUMNS.categorical:
            convert, reason = to_category, "is not UTF-8 text"
        where = f"{file}: column {name} (data.criteo.{source.key})"
        columns[name], bad = convert(raw.columns[name], where)
        for row in np.flatnonzero(bad & good).tolist():
            quarantine.add("impressions", file, int(raw.lines[row]), f"{name} {reason}", raw.text(row))
        good &= ~bad
    if raw.num_rows >= SUSPICIOUS_ROWS and not good.any():
        _, _, line, reason, text = quarantine.rows[-1]
        raise LogError(
            f"{file}: none of {raw.num_rows} rows can be read (data.criteo.{source.key}); expected label, I1..I13, "
            f"C1..C26 between tabs, without a header line. Line {line}: {reason}: {text[:200]!r}. Name another file "
            "(test.txt of the competition has no labels)"
        )
    table, lines = pa.table(columns), raw.lines
    if not good.all():
        table, lines = table.filter(pa.array(good)), lines[good]
    return ImpressionBlock(source.part_of(lines), table, file, lines, raw.num_rows)
