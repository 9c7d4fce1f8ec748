"""Days of serving with known faults: the test period of a run on a made world, served in process.

On each day visitors come as in the weeks before, the store having had every earlier event as a live event, and their
requests are logged. A fault is put where it would arise: into the users' attributes, the ids, the events, the store.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from feast.protos.feast.types.Value_pb2 import Value

from ensemble.operators.fetch_user_features import FetchUserFeatures
from ensemble.pipeline import Pipeline
from features.artifact import open_artifact
from features.history import OWN_COLUMNS
from features.live.event import Event
from features.live.journal import Journal
from features.live.target import ITEMS, STORE, Target
from features.online_store import OnlineStore
from features.schema import load_schema
from features.store.row_update import stored_rows
from pipelines.monitor.later_events import LaterEvent
from pipelines.monitor.offline_features import OfflineFeatures
from pipelines.monitor.replies_as_log import LoggedPipeline

SECONDS_PER_DAY = 86_400
VISITOR_DAYS = 28
K = 10
Kind = Literal["shifted_feature", "new_category", "broken_join", "stale_store", "popularity_spike", "skew"]
FAULTS: tuple[Kind, ...] = ("shifted_feature", "new_category", "broken_join", "stale_store", "popularity_spike")


@dataclass(frozen=True)
class Fault:
    """What is wrong on a day."""

    kind: Kind
    subject: str = ""
    """The feature or the item, as a finding must name it; empty if it has none."""
    size: float = 0.0
    """Share of the users or events, spreads of a feature, or days that the store is behind."""


@dataclass(frozen=True, eq=False)
class Day:
    """What the monitor gets to see of it."""

    log: pa.Table
    events: list[LaterEvent]
    """Since the release, up to a day after the requests."""


class MadeDays:
    """A run on a made world whose test period is served.

    Args:
        run: whose features are those before its test period.
        scratch: a folder for stores and the journal.
        num_requests: of a day.
    """

    def __init__(self, run: Path, scratch: Path, num_requests: int = 600) -> None:
        self.run, self._scratch, self._num_requests = run, scratch, num_requests
        self.version = open_artifact(run / "export", "export").path / "repository" / "cascade" / "1"
        self.asked = LoggedPipeline(Pipeline.load(self.version), self.version)
        etl = open_artifact(run / "etl", "etl")
        self._schema = load_schema(etl.file("schema.json"))
        self._users = pq.read_table(etl.file("raw/users.parquet"))
        self.attributes = etl.metrics["feature_columns"]["user"]
        self._ids = {
            name: pq.read_table(etl.file(f"raw/{name}s.parquet"), columns=[f"{name}_id"])[f"{name}_id"]
            .cast(pa.string())
            .to_pylist()
            for name in ("user", "item")
        }
        events = pq.read_table(etl.file("events.parquet"))
        self._user_row, self._item_row, self._timestamp = (
            events[name].to_numpy() for name in ("user_row", "item_row", "timestamp")
        )
        self._values = {
            name: events[name].cast(pa.string()).to_pylist() for name in events.column_names if name not in OWN_COLUMNS
        }
        self.as_of: int = etl.metrics["as_of"]
        self.num_days = int((self._timestamp.max() - self.as_of) // SECONDS_PER_DAY)

    def day(self, number: int, seed: int, fault: Fault | None = None) -> Day:
        """Serve a day.

        Args:
            number: 1 is the day that begins 24 hours after the release was made.
            seed: of who comes.
        """
        rng = np.random.default_rng([seed, number])
        begin = self.as_of + number * SECONDS_PER_DAY
        events = self._events(begin + SECONDS_PER_DAY)
        if fault and fault.kind == "popularity_spike":
            events += self._spike(fault, begin, rng)
        known_to = begin - (fault.size * SECONDS_PER_DAY if fault and fault.kind == "stale_store" else 0)
        user_ids = self._visitors(begin, rng)
        with self._store(number, seed, [event for event in events if event.timestamp < known_to]) as store:
            if fault:
                user_ids = self._spoil(fault, store, user_ids, rng)
            log = self.asked.ask(user_ids, (begin + np.arange(len(user_ids)) / 10).tolist(), K, seed)
        return Day(log, sorted(events, key=lambda event: event.timestamp))

    def drawn(self, kind: Kind, seed: int) -> Fault:
        """A fault of a kind, its subject and size by chance."""
        rng = np.random.default_rng([seed, FAULTS.index(kind)])
        if kind == "shifted_feature":
            return Fault(kind, f"user_{rng.choice(self.attributes['continuous'])}", rng.uniform(0.75, 1.5))
        if kind == "new_category":
            return Fault(kind, f"user_{rng.choice(self.attributes['categorical'])}", rng.uniform(0.1, 0.3))
        if kind == "broken_join":
            return Fault(kind, rng.choice(["attributes", "ids"]), rng.uniform(0.4, 1.0))
        if kind == "stale_store":
            return Fault(kind, "", rng.uniform(3, 7))
        return Fault(kind, str(rng.choice(self._ids["item"])), rng.uniform(0.1, 0.3))

    def _events(self, end: int) -> list[LaterEvent]:
        places = np.flatnonzero((self._timestamp >= self.as_of) & (self._timestamp < end))
        return [
            LaterEvent(
                self._ids["user"][self._user_row[place]],
                self._ids["item"][self._item_row[place]],
                int(self._timestamp[place]),
                {name: value for name, column in self._values.items() if (value := column[place]) is not None},
            )
            for place in places
        ]

    def _visitors(self, begin: int, rng: np.random.Generator) -> list[str]:
        """Drawn from the visits of the weeks before and the day itself."""
        there = (self._timestamp >= begin - VISITOR_DAYS * SECONDS_PER_DAY) & (
            self._timestamp < begin + SECONDS_PER_DAY
        )
        visits = np.unique(np.stack([self._user_row[there], self._timestamp[there]], axis=1), axis=0)
        drawn = rng.integers(0, len(visits), self._num_requests)
        return [self._ids["user"][row] for row in visits[drawn, 0]]

    def _spike(self, fault: Fault, begin: int, rng: np.random.Generator) -> list[LaterEvent]:
        """One item in a share of the events of the last 24 hours, by users who come as always."""
        within = (self._timestamp >= begin - SECONDS_PER_DAY) & (self._timestamp < begin)
        num_more = int(within.sum() * fault.size / (1 - fault.size))
        users = rng.choice(self._user_row[self._timestamp < begin], num_more)
        moments = begin - rng.integers(60, SECONDS_PER_DAY, num_more)
        return [
            LaterEvent(self._ids["user"][user], fault.subject, int(moment), {})
            for user, moment in zip(users, moments, strict=True)
        ]

    def _store(self, number: int, seed: int, events: Sequence[LaterEvent]) -> _Served:
        """A copy of the export's store that has had the events, in the place of the pipeline's own."""
        folder = self._scratch / f"{number}-{seed}"
        (folder / STORE).parent.mkdir(parents=True)
        shutil.copytree(self.version / STORE, folder / STORE)
        (folder / ITEMS).symlink_to(self.version.resolve() / ITEMS)
        with Journal(folder / "events.db") as journal:
            journal.append(
                [
                    Event(str(place), *event[:3], json.dumps(event.values), event.timestamp)
                    for place, event in enumerate(events)
                ]
            )
            target = Target(folder)
            target.catch_up(journal)
            target.close()
        fetch = next(one for one in self.asked.pipeline.operators if isinstance(one, FetchUserFeatures))
        return _Served(fetch, folder, OnlineStore(folder / STORE, self._schema))

    def _spoil(self, fault: Fault, store: _Served, user_ids: list[str], rng: np.random.Generator) -> list[str]:
        """Change what the store has of the visitors, or their ids."""
        distinct = sorted(set(user_ids))
        chosen = [user for user in distinct if rng.random() < fault.size]
        name = fault.subject.removeprefix("user_")
        if fault.kind == "shifted_feature":
            old = self._users[name].cast(pa.float64())
            moved = pc.add(old, fault.size * pc.stddev(old).as_py())
            store.write(distinct, self._encoded(distinct, {name: moved}, [fault.subject]))
        elif fault.kind == "new_category":
            store.write(
                chosen, self._encoded(chosen, {name: pa.array(["of tomorrow"] * len(self._users))}, [fault.subject])
            )
        elif fault.kind == "broken_join" and fault.subject == "attributes":
            names = [one for names in self.attributes.values() for one in names]
            nulls = {one: pa.nulls(len(self._users), self._users[one].type) for one in names}
            store.write(chosen, self._encoded(chosen, nulls, [f"user_{one}" for one in names]))
        elif fault.kind == "broken_join":
            return [f"{user}.0" if user in set(chosen) else user for user in user_ids]
        elif fault.kind == "skew":
            values = self._encoded(chosen, {}, [fault.subject])
            store.write(chosen, {one: column + 0.25 for one, column in values.items()})
        return user_ids

    def _encoded(
        self, user_ids: Sequence[str], changed: Mapping[str, Any], names: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Features of the users if columns of the raw table were others."""
        users = self._users
        for name, column in changed.items():
            users = users.set_column(users.schema.get_field_index(name), name, column)
        found = OfflineFeatures(self.run, (), users).at(user_ids, np.full(len(user_ids), self.as_of))
        return {name: found[name] for name in names}


class _Served:
    """While it is open, the pipeline reads this store."""

    def __init__(self, fetch: FetchUserFeatures, folder: Path, store: OnlineStore) -> None:
        self._fetch, self._folder, self._store = fetch, folder, store
        self._own = fetch.opened_store

    def __enter__(self) -> _Served:
        self._fetch.opened_store = self._store
        return self

    def __exit__(self, *_: object) -> None:
        self._fetch.opened_store = self._own
        shutil.rmtree(self._folder)

    def write(self, user_ids: Sequence[str], values: Mapping[str, np.ndarray]) -> None:
        """Put other features into users' rows."""
        rows = stored_rows(self._folder / STORE)
        integer = {name: self._fetch.outputs[name][0] == np.int64 for name in values}

        def change(stored: Sequence[object]) -> list[dict[str, Value]]:
            return [
                {
                    name: Value(int64_val=int(column[row])) if integer[name] else Value(float_val=float(column[row]))
                    for name, column in values.items()
                }
                for row in range(len(stored))
            ]

        rows.update(list(user_ids), list(values), change, 0, "made days", 1)
        rows.close()
