"""FetchUserFeatures: a user's features, history and past items from Feast."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
from merlin.schema import Tags

from ensemble.operators.operator import Columns, RequestOperator
from features.online_store import OnlineStore
from features.schema import list_length, load_schema, select

log = logging.getLogger(__name__)

PERSONAL, COLD, FALLBACK, DEGRADED = range(4)
SOURCE_NAMES = np.array(["personal", "cold", "fallback", "degraded"], dtype=object)


class FetchUserFeatures(RequestOperator):
    """Reads the store once for all users of a call; if it cannot be read, all of them are unknown and `degraded`.

    Adds the USER features, each as the schema has it, beside the outputs named here.

    Args:
        store: the folder that `write_online_store` made.
        schema: the etl stage's `schema.json`.
    """

    outputs = {"last_timestamp": (np.int64, ()), "seen_row": (np.int64, (None,)), "source": (np.int64, ())}  # noqa: RUF012

    def __init__(self, store: Path, schema: Path) -> None:
        super().__init__(**{"store": store, "schema.json": schema})
        features = select(load_schema(schema), Tags.USER)
        self.outputs = self.outputs | {  # pyright: ignore[reportIncompatibleVariableOverride]
            column.name: (column.dtype.to_numpy, (list_length(column),) if column.is_list else ())
            for column in features
        }

    def run(self, columns: Columns) -> Columns:
        user_ids = columns["user"].tolist()
        unknown = FALLBACK
        try:
            users = self.opened_store.read(user_ids)
        except Exception:  # a store that is down must not take the reply with it
            log.exception("the online store cannot be read; %d users get popular items", len(user_ids))
            users = self.opened_store.nobody(len(user_ids))
            unknown = DEGRADED
        source = np.where(users.known, np.where(users.num_events > 0, PERSONAL, COLD), unknown)
        return users.features | {"last_timestamp": users.last_timestamp, "seen_row": users.seen, "source": source}

    def open(self, folder: Path) -> None:
        self.opened_store = OnlineStore(folder / "store", load_schema(folder / "schema.json"))
