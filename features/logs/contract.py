"""What every log adapter returns, and the one error it raises."""

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

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
    texts: tuple[str, ...] = ()
    """Columns of type string with words to be read; "" where unknown, never null."""

    @property
    def names(self) -> tuple[str, ...]:
        """All feature columns, in the order in which they stand in the table."""
        return self.categorical + self.continuous + self.lists + self.texts


@dataclass(frozen=True)
class InteractionColumns:
    """What the interactions say beside who, what and when."""

    price: bool = False
    """Whether there is a column `price`: float64, what was paid; null where unknown, never NaN or negative."""
    categorical: tuple[str, ...] = ()
    """Columns of type string, such as the sales channel; null where unknown."""

    @property
    def names(self) -> tuple[str, ...]:
        return ("price",) * self.price + self.categorical


@dataclass(frozen=True)
class Logs:
    """Three tables with raw ids, and an account of every row that was read.

    For each table: rows_read = rows used + rows dropped + rows quarantined. Rows of `users` and `items` that stand
    only for ids seen in the interactions are added with unknown features and are not counted.
    """

    interactions: pa.Table
    """user_id string, item_id string, timestamp int64 (Unix seconds, UTC), in the order of the files, then the columns
    of `interaction_columns`. Text is plain or dictionary-encoded."""
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
    interaction_columns: InteractionColumns = InteractionColumns()


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


def distinct(column: pa.ChunkedArray) -> pa.Array:
    """Distinct values of a text column by first appearance, as plain text; null left out."""
    values = pc.unique(column).drop_null()
    return values.dictionary_decode() if pa.types.is_dictionary(values.type) else values
