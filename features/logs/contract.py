"""What every log adapter returns, and the one error it raises."""

from dataclasses import dataclass

import pyarrow as pa

from features.errors import CascadeError


class LogError(CascadeError, ValueError):
    """The logs cannot be used. The message names the file, the column, what was expected and what to do."""


@dataclass(frozen=True)
class FeatureColumns:
    """Names of a table's feature columns by kind; the three kinds share no name."""

    categorical: tuple[str, ...] = ()
    """Columns of type string; null where unknown."""
    continuous: tuple[str, ...] = ()
    """Columns of type float64; null where unknown, never NaN or infinite."""
    lists: tuple[str, ...] = ()
    """Columns of type list<string>; an empty list where unknown, never null."""

    @property
    def names(self) -> tuple[str, ...]:
        """All feature columns, in the order in which they stand in the table."""
        return self.categorical + self.continuous + self.lists


@dataclass(frozen=True)
class Logs:
    """Three tables with raw ids, and an account of every row that was read.

    For each table: rows_read = rows used + rows dropped + rows quarantined. Rows of `users` and `items` that stand
    only for ids seen in the interactions are added with unknown features and are not counted.
    """

    interactions: pa.Table
    """user_id string, item_id string, timestamp int64 (Unix seconds, UTC), in the order of the files."""
    users: pa.Table
    """user_id string (unique), then the user features; every user of the interactions is here."""
    items: pa.Table
    """item_id string (unique), title string ("" if unknown), then the item features; every item is here."""
    user_features: FeatureColumns
    item_features: FeatureColumns
    quarantine: pa.Table
    """Rows that could not be read: columns as in `QUARANTINE_SCHEMA`."""
    rows_read: dict[str, int]
    """Rows in the raw files by table: "interactions", "users", "items"; header and blank lines are no rows."""
    rows_dropped: dict[str, int]
    """Rows of the interactions left out on purpose, by reason, e.g. "below_min_value"."""


QUARANTINE_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("file", pa.string()),
        ("line", pa.int64()),
        ("reason", pa.string()),
        ("text", pa.string()),
    ]
)
"""`line` counts from 1 and includes the header line (in a Parquet file: the row number); `text` is the raw row."""
