"""What the group of a row, its user, clicked and passed over before the row's own moment: two lists of items.

The lists have the ids of the items' column, and share its embedding table.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from merlin.schema import ColumnSchema, Schema, Tags

from features.history import EventLog
from features.impressions_as_of import GROUP
from features.list_column import list_column
from features.logs.impressions import ImpressionColumns
from features.ops.interner import Interner
from features.schema import PADDING, UNSEEN

# Q rows  N history length
CLICKED, SKIPPED = "clicked_items", "skipped_items"


def append_history(columns: ImpressionColumns, derived: Mapping[str, Sequence[Path]], examples: Path) -> None:
    """Add the two lists to the examples, which have the rows of the derived files in the same order.

    Args:
        columns: `history_of` is set.
        derived: name of a part -> files of raw rows with the group's number.
        examples: the folder with a folder of encoded rows for each part.
    """
    item, moment = str(columns.history_of), str(columns.timestamp)
    items = Interner()
    rows: dict[str, list[np.ndarray]] = {name: [] for name in ("group", "item", "moment", "label", "id")}
    for part, paths in derived.items():
        for path in paths:
            table = pq.read_table(path, columns=[GROUP, item, moment, columns.label])
            rows["group"].append(table[GROUP].to_numpy())
            rows["item"].append(items.add(table[item].cast(pa.string()).combine_chunks()).astype(np.int64))
            rows["moment"].append(table[moment].to_numpy())
            rows["label"].append(table[columns.label].to_numpy())
        rows["id"] += [pq.read_table(path, columns=[item])[item].to_numpy() for path in _files(examples / part)]
    group, code, seconds, label, encoded = (np.concatenate(rows[name]) for name in rows)
    is_known = (group >= 0) & (code >= 0)
    id_of_code = np.full(len(items) + 1, UNSEEN, np.int32)
    id_of_code[code[is_known]] = encoded[is_known]
    id_of_code[-1] = PADDING  # code -1, no item
    logs = {}
    for name, clicked in ((CLICKED, 1), (SKIPPED, 0)):
        kept = is_known & (label == clicked)
        logs[name] = EventLog(group[kept], code[kept], seconds[kept])
    begin = 0
    for path, table in _tables(derived, examples):
        asked = slice(begin, begin + len(table))
        begin = asked.stop
        for name, log in logs.items():
            history_QN = log.user_state(group[asked], seconds[asked], columns.history_length).history_QN
            history_QN[group[asked] < 0] = -1
            table = table.append_column(name, list_column(id_of_code[history_QN]))
        pq.write_table(table, path)


def with_history(schema: Schema, columns: ImpressionColumns) -> Schema:
    """The schema with the columns that `append_history` adds."""
    item = schema[str(columns.history_of)]
    made = [
        ColumnSchema(
            name,
            tags=[Tags.CATEGORICAL, Tags.CONTEXT, Tags.SEQUENCE],
            properties=item.properties,
            dtype=item.dtype,
            is_list=True,
            is_ragged=False,
        ).with_shape((None, columns.history_length))
        for name in (CLICKED, SKIPPED)
    ]
    return Schema([*schema, *made])


def _tables(derived: Mapping[str, Sequence[Path]], examples: Path) -> Iterator[tuple[Path, pa.Table]]:
    for part in derived:
        for path in _files(examples / part):
            yield path, pq.read_table(path)


def _files(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.parquet"))
