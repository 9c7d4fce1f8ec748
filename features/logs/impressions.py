"""What an adapter of impressions returns: rows with a label, block by block, so that logs of any size can be read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa

from features.logs.quarantine import Quarantine
from features.split import TimeSplit


@dataclass(frozen=True)
class ImpressionColumns:
    """Names of the columns of an impression log."""

    label: str
    """Column of type int8: 1 if the impression was clicked, else 0; never null."""
    continuous: tuple[str, ...]
    """Columns of type int64; null where unknown."""
    categorical: tuple[str, ...]
    """Columns of type dictionary<int32, string>; null where unknown. Each block has its own dictionaries."""
    real: tuple[str, ...] = ()
    """Columns of type float64; null where unknown, never NaN or infinite."""
    lists: tuple[str, ...] = ()
    """Columns of type list<string>; an empty list where unknown, never null."""
    timestamp: str | None = None
    """Column of type int64: Unix seconds; never null."""
    calendar: bool = False
    """Whether the hour and the weekday of the timestamp are features."""
    group: str | None = None
    """The categorical column whose values say whose impression it was."""
    hidden: tuple[str, ...] = ()
    """Categorical columns that are no features themselves."""
    as_of: tuple[str, ...] = ()
    """Categorical columns, or several joined by "+", whose earlier rows are counted as of each row's moment."""
    history_of: str | None = None
    """The categorical column of which the group's last values, clicked and not, are lists as of each row's moment."""
    history_length: int = 0
    """Values in each of those lists."""

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, in the order in which they stand in a block."""
        moment = () if self.timestamp is None else (self.timestamp,)
        return (self.label, *self.continuous, *self.real, *self.categorical, *self.lists, *moment)


@dataclass(frozen=True)
class ImpressionBlock:
    """Some rows of one file, in its order: N rows that can be used, and the count of those that were read for them."""

    part: np.ndarray
    """[N] int8: TRAIN, VALID or TEST of features.split."""
    columns: pa.Table
    """N rows with the columns that the adapter's `ImpressionColumns` names."""
    file: str
    """Path of the file."""
    lines: np.ndarray
    """[N] int64: line number of each row from 1; in a Parquet file the row number."""
    rows_read: int
    """Rows of the file that were read for this block: N, and those put in quarantine. Blank lines are no rows."""


class ImpressionLog(Protocol):
    """Where impressions come from: a first log and those appended to it, one source after the other."""

    @property
    def columns(self) -> ImpressionColumns: ...

    @property
    def num_sources(self) -> int: ...

    @property
    def name(self) -> str:
        """What a message calls it: its section of the configuration."""
        ...

    @property
    def keeps_parts(self) -> bool:
        """Whether rows of earlier sources stay where they are when sources are appended; else all are read again."""
        ...

    @property
    def earlier_train(self) -> bool:
        """Whether what validated and tested trains once a source is appended, if rows are kept."""
        ...

    def blocks(self, num_known: int, quarantine: Quarantine) -> Iterator[ImpressionBlock]:
        """The rows of all sources but the first `num_known`, each with its part.

        Raises: LogError if the files cannot be used.
        """
        ...

    def split(self) -> TimeSplit | None:
        """The moments that divide the log, if moments do."""
        ...

    def files(self) -> list[Sequence[Path]]:
        """The files of each source."""
        ...
