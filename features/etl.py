"""Stage `etl`: raw logs -> tables, features as of each interaction, and the state that serving starts from.

Parts: `users.parquet` and `items.parquet` (row u is user_row u, row i is item_row i; encoded features, and the state as
of `as_of`), `events.parquet` (interactions in time order), `examples/{train,valid,test}.parquet` (one row an
interaction, features as of its timestamp), `workflows/`, `schema.json`, `online.json`, `quarantine.parquet`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field
from pydantic.dataclasses import dataclass as config_dataclass

from features.artifact import ArtifactWriter
from features.history import NO_ITEM, EventLog
from features.logs import FeatureColumns, LogError, Logs
from features.split import TEST, TRAIN, VALID, SplitConfig, TimeSplit, time_split

PART_NAMES = {TRAIN: "train", VALID: "valid", TEST: "test"}


@config_dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class EtlConfig:
    """Features from logs."""

    split: SplitConfig = SplitConfig()
    """Time split."""
    history_length: Annotated[int, Field(ge=1, le=1_000)] = 50
    """Interactions kept in a user's history feature, the newest first."""
    popularity_window_days: Annotated[float, Field(gt=0, le=36_500)] = 28.0
    """Window in days of an item's recent popularity."""
    list_max_length: Annotated[int, Field(ge=1, le=100)] = 8
    """Elements kept of each list feature of users and items."""
    drop_seen: bool = True
    """Never recommend what the user already interacted with. Right for films; wrong where people buy again."""
    serve_state: Literal["before_test", "latest"] = "before_test"
    """The moment up to which serving knows the users: the start of the test period (so that `evaluate` is honest),
    or the end of the log (to go live)."""


@dataclass(frozen=True)
class Events:
    """Interactions in time order, as rows of the users and items tables."""

    user_row: np.ndarray
    item_row: np.ndarray
    timestamp: np.ndarray
    part: np.ndarray


def run(config: EtlConfig, logs: Logs, writer: ArtifactWriter) -> None:
    """Write the etl artifact.

    Raises: SplitError if the log cannot be split by time; LogError if a feature's name is one of the stage's own.
    """
    _check_names("user", logs.user_features)
    _check_names("item", logs.item_features)
    users = logs.users.sort_by("user_id")
    items = logs.items.sort_by("item_id")
    split = time_split(logs.interactions["timestamp"].to_numpy(), config.split)
    events = _events(logs.interactions, users["user_id"], items["item_id"], split)
    log = EventLog(events.user_row, events.item_row, events.timestamp)
    as_of = split.test_from if config.serve_state == "before_test" else int(events.timestamp[-1]) + 1

    from features import workflow as wf  # Merlin takes seconds to import

    entities = {
        "users": _Entity.of("user", users, logs.user_features, events.user_row, events.part),
        "items": _Entity.of("item", items, logs.item_features, events.item_row, events.part),
    }
    with TemporaryDirectory(prefix="cascade-vocabularies-") as storage:
        workflows = {
            name: wf.entity_workflow(
                entity.name, entity.columns, entity.vocabulary(), config.list_max_length, Path(storage) / name
            )
            for name, entity in entities.items()
        }
        encoded = {}
        for name, entity in entities.items():
            with wf.as_dataset([entity.raw.take(entity.train_rows)]) as train:
                wf.fit(workflows[name], train)
            encoded[name] = wf.transform(workflows[name], entity.raw)
        workflows["interactions"] = wf.interaction_workflow(
            entities["items"].known_rows, config.history_length, Path(storage) / "interactions"
        )
        _write_examples(writer, workflows["interactions"], log, events, config)
        user_state, item_state = _states(workflows["interactions"], log, len(users), len(items), as_of, config)
        for name, workflow in workflows.items():
            workflow.save(str(writer.path / "workflows" / name))
    writer.volatile += ["workflows/*/workflow.pkl", "workflows/*/metadata.json"]

    _write(writer, "users.parquet", [_joined(users["user_id"], None, encoded["users"], user_state)])
    _write(writer, "items.parquet", [_joined(items["item_id"], items["title"], encoded["items"], item_state)])
    _write(writer, "events.parquet", [_events_table(events)])
    _write(writer, "quarantine.parquet", [logs.quarantine])
    _write_json(writer.path / "online.json", wf.normalization(workflows["interactions"]))
    from features.schema import save_schema

    save_schema(wf.feature_schema(list(workflows.values())), writer.path / "schema.json")
    num_parts = np.bincount(events.part, minlength=3)
    writer.metrics |= {
        "rows_read": logs.rows_read,
        "rows_dropped": logs.rows_dropped,
        "rows_quarantined": len(logs.quarantine),
        "num_users": len(users),
        "num_items": len(items),
        "num_interactions": {PART_NAMES[part]: int(num_parts[part]) for part in PART_NAMES},
        "num_train_users": len(entities["users"].train_rows),
        "num_train_items": len(entities["items"].train_rows),
        "valid_from": split.valid_from,
        "test_from": split.test_from,
        "as_of": as_of,
    }


def raw_interactions(
    log: EventLog, user_row: np.ndarray, item_row: np.ndarray, timestamp: np.ndarray, config: EtlConfig
) -> pa.Table:
    """What the interaction workflow reads, for any user, item and moment: each feature strictly before the moment.

    Args:
        user_row, item_row: [Q] rows of the tables.
        timestamp: [Q] Unix seconds.
    """
    user = log.user_state(user_row, timestamp, config.history_length)
    item = log.item_state(item_row, timestamp, config.popularity_window_days)
    return pa.table(
        {
            "user_row": user_row.astype(np.int64),
            "item_row": item_row.astype(np.int64),
            "timestamp": timestamp.astype(np.int64),
            "history": _ragged(user.history_QN),
            "user_num_events": user.num_events,
            "user_recency_days": user.recency_days,
            "item_num_events": item.num_events,
            "item_num_recent_events": item.num_recent_events,
            "item_age_days": item.age_days,
        }
    )


def _events(interactions: pa.Table, user_ids: pa.ChunkedArray, item_ids: pa.ChunkedArray, split: TimeSplit) -> Events:
    user_row = pc.index_in(interactions["user_id"], value_set=user_ids.combine_chunks()).to_numpy().astype(np.int64)
    item_row = pc.index_in(interactions["item_id"], value_set=item_ids.combine_chunks()).to_numpy().astype(np.int64)
    timestamp = interactions["timestamp"].to_numpy()
    order = np.lexsort((item_row, user_row, timestamp))
    return Events(user_row[order], item_row[order], timestamp[order], split.part_of(timestamp[order]))


def _by_first_appearance(row: np.ndarray) -> np.ndarray:
    """Distinct rows in the order in which they first occur: later logs only ever append."""
    distinct, first = np.unique(row, return_index=True)
    return distinct[np.argsort(first)]


@dataclass(frozen=True)
class _Entity:
    """The users, or the items."""

    name: str
    columns: FeatureColumns
    raw: pa.Table
    """What the workflow reads: `{name}_id` (the row number) and the features."""
    known_rows: np.ndarray
    """Rows with events in the train or valid part, by first appearance; they get an id of their own."""
    train_rows: np.ndarray
    """Rows with events in the train part, by first appearance: the first of known_rows."""

    @classmethod
    def of(cls, name: str, table: pa.Table, columns: FeatureColumns, row: np.ndarray, part: np.ndarray) -> _Entity:
        raw = {f"{name}_id": pa.array(np.arange(len(table)))}
        raw |= {f"{name}_{feature}": table[feature] for feature in columns.names}
        known_rows, train_rows = _by_first_appearance(row[part != TEST]), _by_first_appearance(row[part == TRAIN])
        return cls(name, columns, pa.table(raw), known_rows, train_rows)

    def vocabulary(self) -> dict[str, np.ndarray]:
        """Column -> values in id order. Ids of attributes, too, are numbered by first appearance in the train part."""
        values: dict[str, np.ndarray] = {f"{self.name}_id": self.known_rows}
        train = self.raw.take(self.train_rows)
        for feature in (*self.columns.categorical, *self.columns.lists):
            column = train[f"{self.name}_{feature}"]
            flat = pc.list_flatten(column) if feature in self.columns.lists else column
            values[f"{self.name}_{feature}"] = pc.unique(flat.drop_null()).to_numpy(zero_copy_only=False)
        return values


def _check_names(entity: str, columns: FeatureColumns) -> None:
    from features.workflow import CONTEXT_COUNTS, KEYS, USER_COUNTS

    taken = {f"{entity}_id", *KEYS, *USER_COUNTS, *CONTEXT_COUNTS}
    for name in columns.names:
        if f"{entity}_{name}" in taken:
            raise LogError(
                f"the {entity} feature {name!r} would become the column {entity}_{name}, which the etl stage makes "
                f"itself; give it another name in data.tables.{entity}s"
            )


def _write_examples(writer: ArtifactWriter, workflow, log: EventLog, events: Events, config: EtlConfig) -> None:
    """Fit the interaction workflow on the train part and encode all three."""
    from features.workflow import as_dataset, fit, transformed_parts

    (writer.path / "examples").mkdir()
    for part, name in PART_NAMES.items():
        with as_dataset(_raw_of_part(log, events, part, config)) as raw:
            if part == TRAIN:
                fit(workflow, raw)
            _write(writer, f"examples/{name}.parquet", transformed_parts(workflow, raw))


def _raw_of_part(log: EventLog, events: Events, part: int, config: EtlConfig) -> Iterator[pa.Table]:
    """Raw interaction features of a part, so many rows at a time that memory stays bounded."""
    from features.workflow import ROWS_PER_PART

    event = np.flatnonzero(events.part == part)
    for begin in range(0, len(event), ROWS_PER_PART):
        rows = event[begin : begin + ROWS_PER_PART]
        yield raw_interactions(log, events.user_row[rows], events.item_row[rows], events.timestamp[rows], config)


def _states(workflow, log, num_users, num_items, as_of, config) -> tuple[dict, dict]:
    """Columns of the users and items tables that hold what was known at `as_of`."""
    from features.workflow import CONTEXT_COUNTS, HISTORY, USER_COUNTS, transform

    every_user, every_item = np.arange(num_users), np.arange(num_items)
    at_user, at_item = np.full(num_users, as_of), np.full(num_items, as_of)
    user = log.user_state(every_user, at_user, 1)
    of_user = transform(workflow, raw_interactions(log, every_user, np.zeros_like(every_user), at_user, config))
    of_item = transform(workflow, raw_interactions(log, np.zeros_like(every_item), every_item, at_item, config))
    owner, seen_row = log.items_before(every_user, at_user)
    seen = pa.LargeListArray.from_arrays(pa.array(np.searchsorted(owner, np.arange(num_users + 1))), pa.array(seen_row))
    user_state = {name: of_user[name] for name in (HISTORY, *USER_COUNTS)}
    user_state |= {"num_events": user.num_events, "last_timestamp": user.last_timestamp, "seen": seen}
    item_state = {name: of_item[name] for name in CONTEXT_COUNTS if name.startswith("item_")}
    recent = log.item_state(every_item, at_item, config.popularity_window_days)
    item_state |= {"num_recent_events": recent.num_recent_events, "num_events": recent.num_events}
    return user_state, item_state


def _joined(raw_id, title, encoded: pa.Table, state: dict) -> pa.Table:
    named = {"raw_id": raw_id} | ({"title": title} if title is not None else {})
    return pa.table(named | {name: encoded[name] for name in encoded.column_names} | state)


def _events_table(events: Events) -> pa.Table:
    return pa.table(
        {"user_row": events.user_row, "item_row": events.item_row, "timestamp": events.timestamp, "split": events.part}
    )


def _ragged(history_QN: np.ndarray) -> pa.Array:
    known = history_QN != NO_ITEM
    offsets = np.concatenate([[0], np.cumsum(known.sum(1))])
    return pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(history_QN[known].astype(np.int64)))


def _write(writer: ArtifactWriter, name: str, tables: Iterable[pa.Table]) -> None:
    writer.rows[name] = 0
    with contextlib.ExitStack() as stack:
        file = None
        for table in tables:
            file = file or stack.enter_context(pq.ParquetWriter(writer.path / name, table.schema))
            file.write_table(table)
            writer.rows[name] += len(table)


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
