"""Stage `etl` for interactions: raw logs -> tables, features as of each interaction, the state serving starts from.

Parts: `users.parquet` and `items.parquet` (row u is user_row u, row i is item_row i; encoded features, and the state as
of `as_of`), `events.parquet` (interactions in time order), `examples/{train,valid,test}/` (one row an interaction,
features as of its timestamp), `workflows/`, `schema.json`, `online.json`, `vocabulary.json`, `raw/` (the tables as they
were read, for an append), `quarantine.parquet`.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import TypeAdapter

from features import vocabulary
from features import workflow as wf
from features.artifact import Artifact, ArtifactWriter
from features.as_of import HISTORY, AsOf, Interactions, raw_interactions
from features.cluster import IN_PROCESS, Cluster
from features.config import EtlConfig
from features.entities import Entity, check_names
from features.events import Events, events_of, last_values
from features.executor import write_parts
from features.history import EventLog
from features.logs import FeatureColumns, InteractionColumns, Logs
from features.partitions import ROWS_PER_PART, TableParts
from features.schema import save_schema
from features.split import PART_NAMES, TRAIN, TimeSplit, time_split


def run(
    config: EtlConfig,
    logs: Logs,
    writer: ArtifactWriter,
    cluster: Cluster | None = None,
    before: Artifact | None = None,
    number: int = 1,
) -> None:
    """Write the etl artifact.

    Args:
        cluster: where the features are computed; threads of this process if None.
        before: the artifact of the logs' first part: what has an id there keeps it.
        number: of logs, the first one and each append.
    Raises: SplitError if the log cannot be split by time; LogError if a feature's name is one of the stage's own.
    """
    cluster = cluster or IN_PROCESS
    as_of = _as_of(config, logs.interaction_columns)
    check_names("user", logs.user_features, as_of)
    check_names("item", logs.item_features, as_of)
    users, items = logs.users, logs.items
    split = time_split(logs.interactions["timestamp"].to_numpy(), config.split)
    events = events_of(logs, split)
    moment = split.test_from if config.serve_state == "before_test" else int(events.timestamp[-1]) + 1
    known = vocabulary.of_artifact(before)
    entities = {
        "users": Entity.of("user", users, logs.user_features, events.user_row, events.part, known.rows("user_id")),
        "items": Entity.of("item", items, logs.item_features, events.item_row, events.part, known.rows("item_id")),
    }
    with TemporaryDirectory(prefix="cascade-etl-") as scratch:
        folder = Path(scratch)
        values = {name: entity.vocabulary(known.columns) for name, entity in entities.items()}
        values["interactions"] = {HISTORY: values["items"]["item_id"]} | last_values(events, as_of, known)
        workflows = {
            name: wf.entity_workflow(
                entity.name, entity.columns, values[name], config.list_max_length, config.text_dim, folder / name
            )
            for name, entity in entities.items()
        }
        encoded = {}
        for name, entity in entities.items():
            wf.fit(workflows[name], TableParts(entity.raw.take(entity.train_rows)), IN_PROCESS)
            encoded[name] = wf.transform(workflows[name], entity.raw)
        workflows["interactions"] = wf.interaction_workflow(as_of, values["interactions"], folder / "interactions")
        log = events.saved_log(folder)
        _write_examples(writer, workflows["interactions"], events, as_of, folder, cluster)
        states = _States(workflows["interactions"], log, as_of, moment)
        for name, workflow in workflows.items():
            workflow.save(str(writer.path / "workflows" / name))
        _write(writer, "users.parquet", states.users(users["user_id"], encoded["users"]))
        _write(writer, "items.parquet", states.items(items["item_id"], items["title"], encoded["items"]))
    writer.volatile += ["workflows/*/workflow.pkl", "workflows/*/metadata.json"]
    _write(writer, "events.parquet", [events.table()])
    _write(writer, "quarantine.parquet", [logs.quarantine])
    _write(writer, "raw/users.parquet", [users])
    _write(writer, "raw/items.parquet", [items])
    _write_json(writer.path / "online.json", wf.normalization(workflows["interactions"]))
    save_schema(wf.feature_schema(list(workflows.values())), writer.path / "schema.json")
    version = vocabulary.write(writer, {**values["users"], **values["items"], **values["interactions"]}, number)
    writer.metrics |= _metrics(logs, events, split) | {
        "num_train_users": len(entities["users"].train_rows),
        "num_train_items": len(entities["items"].train_rows),
        "as_of": moment,
        "vocabulary": version,
    }


def logs_of(etl: Artifact) -> Logs:
    """The logs that an etl artifact was made from, in time order: what an append adds to."""
    users, items, events = (pq.read_table(etl.file(f"{name}.parquet")) for name in ("raw/users", "raw/items", "events"))
    interactions = {
        name: pa.DictionaryArray.from_arrays(
            events[f"{name[:4]}_row"].combine_chunks().cast(pa.int32()), table[name].combine_chunks()
        )
        for name, table in (("user_id", users), ("item_id", items))
    }
    others = ("timestamp", *_interaction_columns(etl).names)
    columns = {name: events[name] for name in others}
    features = {
        f"{name}_features": FeatureColumns(**{kind: tuple(names) for kind, names in kinds.items()})
        for name, kinds in etl.metrics["feature_columns"].items()
    }
    return Logs(
        interactions=pa.table(interactions | columns),
        users=users,
        items=items,
        quarantine=pq.read_table(etl.file("quarantine.parquet")),
        rows_read=dict(etl.metrics["rows_read"]),
        rows_dropped=dict(etl.metrics["rows_dropped"]),
        interaction_columns=_interaction_columns(etl),
        **features,
    )


def _metrics(logs: Logs, events: Events, split: TimeSplit) -> dict[str, Any]:
    num_parts = np.bincount(events.part, minlength=3)
    columns = logs.interaction_columns
    return {
        "rows_read": logs.rows_read,
        "rows_dropped": logs.rows_dropped,
        "rows_quarantined": len(logs.quarantine),
        "num_users": len(logs.users),
        "num_items": len(logs.items),
        "num_interactions": {PART_NAMES[part]: int(num_parts[part]) for part in PART_NAMES},
        "valid_from": split.valid_from,
        "test_from": split.test_from,
        "feature_columns": {"user": asdict(logs.user_features), "item": asdict(logs.item_features)},
        "interaction_columns": {"price": columns.price, "categorical": list(columns.categorical)},
    }


def as_of_features(etl: Artifact) -> AsOf:
    """Which interaction features an etl artifact has."""
    config = TypeAdapter(EtlConfig).validate_python(etl.manifest["config"])
    return _as_of(config, _interaction_columns(etl))


def _interaction_columns(etl: Artifact) -> InteractionColumns:
    columns = etl.metrics["interaction_columns"]
    return InteractionColumns(columns["price"], tuple(columns["categorical"]))


def _as_of(config: EtlConfig, columns: InteractionColumns) -> AsOf:
    return AsOf(config.history_length, config.popularity_window_days, columns.price, tuple(columns.categorical))


def _write_examples(
    writer: ArtifactWriter, workflow, events: Events, as_of: AsOf, folder: Path, cluster: Cluster
) -> None:
    """Fit the interaction workflow on the train part and encode all three."""
    for part, name in PART_NAMES.items():
        begin, end = (int(place) for place in np.searchsorted(events.part, [part, part + 1]))
        source = Interactions(folder / "log", folder / "events", begin, end, as_of)
        if part == TRAIN:
            wf.fit(workflow, source, cluster)
        written = write_parts(workflow, source, writer.path / "examples" / name, cluster)
        writer.rows |= {f"examples/{name}/{file}": rows for file, rows in written.items()}


@dataclass(frozen=True)
class _States:
    """What was known of all users and items at the moment at which serving starts."""

    workflow: object
    log: EventLog
    as_of: AsOf
    moment: int

    def users(self, raw_id: pa.ChunkedArray, encoded: pa.Table) -> Iterator[pa.Table]:
        for rows, at, table in self._parts(raw_id, encoded):
            features = self._features(rows, np.zeros_like(rows), at)
            user = self.log.user_state(rows, at, 0)
            owner, seen_row = self.log.items_before(rows, at)
            offsets = np.searchsorted(owner, np.arange(len(rows) + 1))
            state = {name: features[name] for name in self.as_of.user_columns}
            state |= {"num_events": user.num_events, "last_timestamp": user.last_timestamp}
            state["seen"] = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(seen_row))
            yield _joined(table, state)

    def items(self, raw_id: pa.ChunkedArray, title: pa.ChunkedArray, encoded: pa.Table) -> Iterator[pa.Table]:
        encoded = encoded.add_column(0, "title", title)
        for rows, at, table in self._parts(raw_id, encoded):
            features = self._features(np.zeros_like(rows), rows, at)
            item = self.log.item_state(rows, at, self.as_of.window_days)
            state = {name: features[name] for name in self.as_of.item_numbers}
            state |= {"num_recent_events": item.num_recent_events, "num_events": item.num_events}
            yield _joined(table, state)

    def _parts(self, raw_id: pa.ChunkedArray, encoded: pa.Table) -> Iterator[tuple[np.ndarray, np.ndarray, pa.Table]]:
        table = encoded.add_column(0, "raw_id", raw_id)
        for begin in range(0, len(table), ROWS_PER_PART):
            part = table.slice(begin, ROWS_PER_PART)
            yield np.arange(begin, begin + len(part)), np.full(len(part), self.moment), part

    def _features(self, user_row: np.ndarray, item_row: np.ndarray, at: np.ndarray) -> pa.Table:
        return wf.transform(self.workflow, raw_interactions(self.log, user_row, item_row, at, self.as_of))


def _joined(table: pa.Table, state: dict) -> pa.Table:
    columns = {name: table[name].combine_chunks() for name in table.column_names}
    return pa.table(columns | state)


def _write(writer: ArtifactWriter, name: str, tables: Iterable[pa.Table]) -> None:
    writer.rows[name] = 0
    (writer.path / name).parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        file = None
        for table in tables:
            file = file or stack.enter_context(pq.ParquetWriter(writer.path / name, table.schema))
            file.write_table(table)
            writer.rows[name] += len(table)


def _write_json(path: Path, document: object) -> None:
    path.write_text(json.dumps(document, indent=2, sort_keys=True) + "\n")
