"""Blocks of a file under conversion, and the columns that every table has: ids and times."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from features.logs import convert
from features.logs.quarantine import Quarantine
from features.logs.raw_table import RawBlock
from features.logs.table_config import FileConfig, TimeForm


class TableBlock:
    """A raw block under conversion: which of its rows are still good.

    Args:
        section: of the configuration that describes the table, for messages, e.g. "data.tables.users".
        table: what the quarantine calls it.
    """

    def __init__(self, section: str, table: str, file: Path, raw: RawBlock, quarantine: Quarantine) -> None:
        self.section, self.table, self.file, self.raw, self.quarantine = section, table, str(file), raw, quarantine
        self.good = np.ones(raw.columns.num_rows, bool)
        for line, reason, text in raw.malformed:
            quarantine.add(table, self.file, line, reason, text)

    def reject(self, bad: np.ndarray, reason: str) -> None:
        """Put rows that are still good and in the mask in quarantine."""
        for row in np.flatnonzero(bad & self.good).tolist():
            self.quarantine.add(self.table, self.file, int(self.raw.lines[row]), reason, self.raw.text(row))
        self.good &= ~bad

    def where(self, key: str, column: str) -> str:
        return f"{self.file}: column {column!r} ({self.section}.{key})"

    def ids(self, key: str, column: str) -> pa.Array:
        """Ids as text; a row with one that cannot be used is rejected."""
        ids, problems = convert.to_id(self.raw.columns[column], self.where(key, column))
        for bad, reason in problems:
            self.reject(bad, f"{key}: {reason}")
        return ids

    def timestamps(self, column: str, form: TimeForm) -> pa.Array:
        """Unix seconds; a row with a time that cannot be read is rejected."""
        raw, where = self.raw.columns[column], self.where("timestamp", column)
        timestamp, problems = convert.to_timestamp(raw, where, form.timestamp_unit, form.timestamp_format)
        for bad, reason in problems:
            self.reject(bad, reason)
        return pa.array(timestamp, pa.int64())


def table_blocks(
    section: str, table: str, config: FileConfig, wanted: dict[str, str], quarantine: Quarantine
) -> Iterator[TableBlock]:
    """The blocks of all files of a table.

    Args:
        wanted: key in the section -> column.
    """
    keys = {f"{section}.{key}": column for key, column in wanted.items()}
    for file in config.files(section):
        for raw in file.blocks(keys):
            yield TableBlock(section, table, file.path, raw, quarantine)
