"""The live run as it would answer at the start of the new run's test period.

Its models, sources and index have learned from what came before its own test period, which lies before the new one's.
What it knows of the users is brought up to the moment as live events do it while serving: histories, counts, what was
seen. Items that came since are unknown to it, as they are to the server.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from features.artifact import Artifact
from pipelines.config import load_saved_config
from pipelines.refresh.begin import linked
from pipelines.stages import CONFIG_FILE, run_stages

_FOLDER = ".live"
_JOURNAL = "events.db"
_EVENTS_AT_ONCE = 10_000


def live_version(run: Path, new_etl: Artifact, user_rows: np.ndarray, out: Path) -> Path:
    """The folder of an exported version of the live run that knows the users as of the new run's test period.

    Args:
        user_rows: users of the new run who will be asked for.
        out: the new run's folder, below which everything is made; `forget` removes it.
    """
    folder = out / _FOLDER
    shutil.rmtree(folder, ignore_errors=True)
    origin = _as_of_its_own_test_period(run, folder / "run")
    version = folder / "version"
    shutil.copytree(origin / "export" / "repository" / "cascade" / "1", version)
    _bring_events(version, new_etl, user_rows, folder / _JOURNAL)
    return version


def forget(out: Path) -> None:
    shutil.rmtree(out / _FOLDER, ignore_errors=True)


def _as_of_its_own_test_period(run: Path, scratch: Path) -> Path:
    """The run itself if it does not know its test period and keeps its users in a file; else one that does so."""
    config = load_saved_config(run / CONFIG_FILE)
    store = config.export.online_store
    if config.etl.serve_state == "before_test" and store.type == "sqlite":
        return run
    for name in ("etl", "retrieval", "index", "ranking"):
        linked(run / name, scratch / name)
    config = replace(
        config,
        etl=replace(config.etl, serve_state="before_test"),
        export=replace(config.export, online_store=replace(store, type="sqlite")),
    )
    run_stages(config, scratch, say=lambda line: None)
    return scratch


def _bring_events(version: Path, new_etl: Artifact, user_rows: np.ndarray, journal: Path) -> None:
    """Bring what the users did between the version's moment and the test period into its store."""
    from features.live.event import Event
    from features.live.journal import Journal
    from features.live.target import replay

    as_of, until = json.loads((version / "sha256.json").read_text())["as_of"], new_etl.metrics["test_from"]
    attributes = list(new_etl.metrics["interaction_columns"]["categorical"])
    table = pq.read_table(new_etl.file("events.parquet"), columns=["user_row", "item_row", "timestamp", *attributes])
    time = table["timestamp"].to_numpy()
    between = (time >= as_of) & (time < until) & np.isin(table["user_row"].to_numpy(), user_rows)
    table = table.take(np.flatnonzero(between))
    raw = {
        name: pq.read_table(new_etl.file(f"{name}s.parquet"), columns=["raw_id"])["raw_id"].cast("string")
        for name in ("user", "item")
    }
    ids = {name: column.take(table[f"{name}_row"].combine_chunks()).to_pylist() for name, column in raw.items()}
    rows = table.select(attributes).to_pylist() if attributes else [{}] * len(table)
    events = [
        Event(str(number), user, item, moment, json.dumps(row))
        for number, (user, item, moment, row) in enumerate(
            zip(ids["user"], ids["item"], table["timestamp"].to_pylist(), rows, strict=True)
        )
    ]
    with Journal(journal, max_events_per_user=len(events) + 1) as opened:
        for begin in range(0, len(events), _EVENTS_AT_ONCE):
            opened.append(events[begin : begin + _EVENTS_AT_ONCE])
    replay(journal, version)
