"""Checks that every log must pass before features are made from it, whatever adapter read it."""

import pyarrow as pa
import pyarrow.compute as pc

from features.logs.contract import FeatureColumns, LogError, Logs, distinct


class QuarantineError(LogError):
    """Too many rows cannot be read. `quarantine` holds them, for whoever can put them where the user finds them."""

    def __init__(self, message: str, quarantine: pa.Table) -> None:
        super().__init__(message)
        self.quarantine = quarantine


def check_logs(logs: Logs, max_quarantined_share: float) -> None:
    """Refuse logs from which no recommender can be learned.

    Args:
        logs: what an adapter read.
        max_quarantined_share: largest share of unreadable rows allowed in each table, 0..1.
    Raises: LogError on the first failed check; QuarantineError if that is the share of unreadable rows.
    """
    check_quarantined_share(logs.quarantine, logs.rows_read, max_quarantined_share)
    _check_interactions(logs)
    _check_features("users", logs.users, logs.user_features)
    _check_features("items", logs.items, logs.item_features)


def check_quarantined_share(quarantine: pa.Table, rows_read: dict[str, int], max_share: float) -> None:
    """Raises: QuarantineError if in a table more than this share of the rows read is in quarantine."""
    for table, num_rows in rows_read.items():
        bad = quarantine.filter(pc.equal(quarantine["table"], table))
        if bad.num_rows <= max_share * num_rows:
            continue
        counts = sorted(bad["reason"].value_counts().to_pylist(), key=lambda pair: -pair["counts"])
        reasons = "; ".join(f"{pair['counts']} x {pair['values']}" for pair in counts[:5])
        first = bad.slice(0, 1).to_pylist()[0]
        raise QuarantineError(
            f"{first['file']}: {bad.num_rows} of {num_rows} rows of {table} cannot be read, more than the allowed "
            f"share {max_share:g} (data.max_quarantined_share). Reasons: {reasons}. First: line {first['line']}: "
            f"{first['text'][:200]!r} ({first['reason']}). Correct the file or the column mapping, or raise the share",
            quarantine,
        )


def _check_interactions(logs: Logs) -> None:
    interactions = logs.interactions
    if interactions.num_rows == 0:
        dropped = ", ".join(f"{count} {reason}" for reason, count in logs.rows_dropped.items()) or "none"
        raise LogError(
            f"interactions: the log is empty: {logs.rows_read['interactions']} rows read, {dropped} dropped, "
            "none left to learn from; point data.tables.interactions.path at a file with rows"
            + (" or lower data.tables.interactions.min_value" if logs.rows_dropped.get("below_min_value") else "")
        )
    for column in ("user_id", "item_id"):
        ids = interactions[column]
        if len(distinct(ids)) < 2:
            raise LogError(
                f"interactions: column {column} holds only one id, {ids[0].as_py()!r}, in {interactions.num_rows} "
                f"rows: one class only, nothing to compare; check that data.tables.interactions.{column} names the "
                "right column"
            )
    span = pc.min_max(interactions["timestamp"]).as_py()
    if span["min"] == span["max"]:
        raise LogError(
            f"interactions: all {interactions.num_rows} rows have the same timestamp, {span['min']} (Unix "
            "seconds): they cannot be split by time into training and test; "
            "check that data.tables.interactions.timestamp names the "
            "right column, with its timestamp_unit or timestamp_format"
        )


def _check_features(table_name: str, table: pa.Table, features: FeatureColumns) -> None:
    for name in features.names:
        column = table[name]
        if name in features.lists:
            known = pc.sum(pc.list_value_length(column)).as_py()
        elif name in features.texts:
            known = pc.sum(pc.utf8_length(column)).as_py()
        else:
            known = len(column) - column.null_count
        if not known:
            raise LogError(
                f"{table_name}: feature column {name} is empty in all {table.num_rows} rows: nothing can be learned "
                f"from it; remove it from data.tables.{table_name}, or map it to the column that holds the values"
            )
