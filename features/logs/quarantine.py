"""Rows that cannot be read are set aside with their place, the reason and their text; none is lost."""

from dataclasses import dataclass, field

import pyarrow as pa

from features.logs.contract import QUARANTINE_SCHEMA


@dataclass
class Quarantine:
    """Collects bad rows while files are read."""

    rows: list[tuple[str, str, int, str, str]] = field(default_factory=list)

    def add(self, table: str, file: str, line: int, reason: str, text: str) -> None:
        """Set one row aside.

        Args:
            table: "interactions", "users", "items" or "impressions".
            file: path of the file it stands in.
            line: line number from 1, header included; in a Parquet file the row number from 1.
            reason: why it cannot be used; few different wordings, so that they can be counted.
            text: the raw row.
        """
        self.rows.append((table, file, line, reason, text))

    def extend(self, table: pa.Table) -> None:
        """Add what was set aside before."""
        self.rows += [tuple(row.values()) for row in table.to_pylist()]

    def to_table(self) -> pa.Table:
        """All bad rows in the order in which they were found, with columns as in `QUARANTINE_SCHEMA`."""
        columns = list(zip(*self.rows, strict=True)) if self.rows else [()] * len(QUARANTINE_SCHEMA)
        arrays = [pa.array(values, type=kind) for values, kind in zip(columns, QUARANTINE_SCHEMA.types, strict=True)]
        return pa.Table.from_arrays(arrays, schema=QUARANTINE_SCHEMA)
