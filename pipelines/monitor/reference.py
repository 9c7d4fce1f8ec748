"""What requests look like while all is well: the visits of the log's last days, with the features as of each of them
and the replies of the run's own pipeline."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.artifact import Artifact, open_artifact
from pipelines.monitor.config import MonitorConfig
from pipelines.monitor.logged_requests import COLUMNS, LoggedRequests
from pipelines.monitor.offline_features import OfflineFeatures
from pipelines.replaced_file import replaced
from pipelines.request_log_table import request_log_table

if TYPE_CHECKING:
    from pipelines.monitor.replies_as_log import LoggedPipeline

SECONDS_PER_DAY = 86_400
FILE = "reference.parquet"
_SEED = 20_240_101


@dataclass(frozen=True, eq=False)
class Reference:
    """What the window is compared with."""

    requests: LoggedRequests
    first_visits: float
    """Share of the visits of users who had never been there before."""
    item_share: Mapping[str, float]
    """Item -> its share of the events of the reference's days."""
    origin: str
    """For people: where it is from."""


def training_reference(
    run: Path, version: Path, asked: LoggedPipeline | None, features: OfflineFeatures, config: MonitorConfig, k: int
) -> Reference:
    """The reference from the data that the run was trained on; its replies are kept in `monitor/` for the next time.

    Args:
        version: folder of the exported model.
        asked: the pipeline of that folder; loaded if it is None and the replies are not there yet.
        k: items of a slate.
    """
    etl = open_artifact(run / "etl", "etl")
    user_row, item_row, timestamp = _last_events(etl, features, config)
    visits = np.unique(np.stack([user_row, timestamp], axis=1), axis=0)
    raw_ids = pq.read_table(etl.file("raw/users.parquet"), columns=["user_id"])["user_id"].cast(pa.string())
    rng = np.random.default_rng(_SEED)
    drawn = np.sort(rng.permutation(len(visits))[: config.reference_requests])
    user_ids, moment = raw_ids.take(pa.array(visits[drawn, 0])).to_pylist(), visits[drawn, 1]
    table = _replies(run, version, asked, user_ids, moment, k)
    requests = LoggedRequests.of(table)
    as_of_visit = features.at(user_ids, moment)
    requests = replace(requests, features={name: as_of_visit[name] for name in features.names})
    return Reference(
        requests=requests,
        first_visits=float((as_of_visit["last_timestamp"] < 0).mean()),
        item_share=_shares(etl.file("raw/items.parquet"), item_row),
        origin=f"{len(drawn):,} of {len(visits):,} visits in the last {config.reference_days:g} days before "
        f"{np.datetime64(features.as_of, 's')} UTC",
    )


def logged_reference(folder: Path, run: Path, features: OfflineFeatures, config: MonitorConfig) -> Reference:
    """A log of good days in place of the visits that the run was trained on; of any release.

    Raises: RequestLogError if the folder holds none.
    """
    requests = LoggedRequests.of(request_log_table(folder, COLUMNS))
    days = (requests.received_B.max() - requests.received_B.min()) / SECONDS_PER_DAY
    etl = open_artifact(run / "etl", "etl")
    _, item_row, _ = _last_events(etl, features, config)
    return Reference(
        requests=requests,
        first_visits=0.0,
        item_share=_shares(etl.file("raw/items.parquet"), item_row),
        origin=f"{len(requests):,} logged requests of {days:.1f} days, {folder}",
    )


def _last_events(
    etl: Artifact, features: OfflineFeatures, config: MonitorConfig
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """User row, item row and Unix seconds of the events of the reference's days."""
    events = pq.read_table(etl.file("events.parquet"), columns=["user_row", "item_row", "timestamp"])
    user_row, item_row, timestamp = (column.to_numpy() for column in events.columns)
    begin = features.as_of - config.reference_days * SECONDS_PER_DAY
    within = (begin <= timestamp) & (timestamp < features.as_of)
    return user_row[within], item_row[within], timestamp[within]


def _replies(
    run: Path, version: Path, asked: LoggedPipeline | None, user_ids: list[str], moment: np.ndarray, k: int
) -> pa.Table:
    """What the pipeline says to each user as of the export, read if it was asked the same before."""
    key = f"{open_artifact(run / 'export', 'export').content_hash} {k} {_hash_of(user_ids, moment)}".encode()
    path = run / "monitor" / FILE
    if path.is_file():
        table = pq.read_table(path)
        if (table.schema.metadata or {}).get(b"cascade.reference") == key:
            return table
    if asked is None:
        from ensemble.pipeline import Pipeline
        from pipelines.monitor.replies_as_log import LoggedPipeline

        asked = LoggedPipeline(Pipeline.load(version), version)
    table = asked.ask(user_ids, moment.tolist(), k, seed=_SEED)
    path.parent.mkdir(exist_ok=True)
    with replaced(path) as new:
        pq.write_table(table.replace_schema_metadata({b"cascade.reference": key}), new)
    return table


def _hash_of(user_ids: list[str], moment: np.ndarray) -> str:
    return hashlib.sha256("\n".join(user_ids).encode() + moment.astype("<i8").tobytes()).hexdigest()[:16]


def _shares(items: Path, item_row: np.ndarray) -> dict[str, float]:
    ids = pq.read_table(items, columns=["item_id"])["item_id"].cast(pa.string()).to_pylist()
    count_I = np.bincount(item_row, minlength=len(ids))
    return {ids[row]: float(count_I[row] / max(count_I.sum(), 1)) for row in np.flatnonzero(count_I)}
