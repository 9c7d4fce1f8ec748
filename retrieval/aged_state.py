"""Users as serving knows them: their state is older than the interaction it has to foretell.

Serving knows a user as of the last refresh of the features; until the next one, everything the user does has to be
foretold from that state. A model that only ever saw the state of the second before an interaction learns to continue
the running visit, and fails when the visit itself has to be foretold, most of all for new users.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact
from features.as_of import raw_interactions
from features.batches import Batch, Batches, FeatureTables, tensors
from features.etl import as_of_features
from features.history import EventLog
from features.workflow import load_workflow, transform


def aged_moments(etl: Artifact, timestamp: np.ndarray, seed: int) -> np.ndarray:
    """Moments from which the interactions are foretold: evenly up to one validation period before; Unix seconds."""
    max_age_seconds = etl.metrics["test_from"] - etl.metrics["valid_from"]
    return (timestamp - np.random.default_rng(seed).random(len(timestamp)) * max_age_seconds).astype(np.int64)


def aged_batches(etl: Artifact, tables: FeatureTables, examples: list[Path], batch_size: int, seed: int) -> Batches:
    """Batches of the etl stage's examples, each user as of one of the `aged_moments` (one an example, kept for good).

    Every other column stays as of the interaction; `moment` is added.
    """
    keys = pa.concat_tables([pq.read_table(path, columns=["user_row", "timestamp"]) for path in examples])
    moment = aged_moments(etl, keys["timestamp"].to_numpy(), seed)
    states = user_states(etl, tables, keys["user_row"].to_numpy(), moment)
    return Batches(examples, tables, batch_size, seed, replaced=states | {"moment": torch.from_numpy(moment)})


def user_states(etl: Artifact, tables: FeatureTables, user_row: np.ndarray, moment: np.ndarray) -> Batch:
    """The features of users that change with time, strictly before each moment, encoded as the etl stage does.

    Args:
        user_row, moment: [Q] rows of the users table and Unix seconds.
    """
    log = EventLog.from_events(pq.read_table(etl.file("events.parquet")))
    as_of = as_of_features(etl)
    raw = raw_interactions(log, user_row, np.zeros_like(user_row), moment, as_of)
    encoded = transform(load_workflow(etl, "interactions"), raw)
    return tensors(encoded.select(as_of.user_columns), tables.schema)
