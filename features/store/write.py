"""Making a store and loading every user of the etl stage into it; and taking one out of Redis again."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
from merlin.schema import Tags

from features.artifact import Artifact
from features.schema import load_schema, select
from features.store.config import OnlineStoreConfig
from features.store.live_file import LiveFile
from features.store.past_events import PastEvents
from features.store.repository import (
    KEY,
    LIVE,
    ONLINE,
    PAST,
    SEEN,
    STATE_COLUMNS,
    VIEW,
    create_repository,
    online_settings,
    project_name,
    repo_config,
)
from features.store.user_rows import UsersFile


def feature_names(etl: Artifact) -> list[str]:
    """What a request reads of a user: the models' features, then STATE_COLUMNS."""
    return [*(column.name for column in select(load_schema(etl.file("schema.json")), Tags.USER)), *STATE_COLUMNS]


def stored_schema(users: UsersFile) -> pa.Schema:
    """Of all that the store may hold of a user: what the file has, and live events."""
    return users.schema.append(pa.field(LIVE, users.schema.field(PAST).type))


def write_online_store(
    folder: Path,
    etl: Artifact,
    config: OnlineStoreConfig | None = None,
    progress: Callable[[int, int], None] = lambda num_written, num_users: None,
) -> int:
    """Make the store and load every user of the etl stage, as of its `as_of`.

    The folder appears when everything is in it, or in Redis. A load that was interrupted leaves no folder; what it left
    in Redis the next load of the same etl result completes.

    Args:
        folder: must not exist.
        config: SQLite if None.
        progress: called after each batch with the users written so far, and in all.
    Returns: users written.
    Raises: FileExistsError; StoreError if the store cannot take the users.
    """
    config = config or OnlineStoreConfig()
    if folder.exists():
        raise FileExistsError(f"{folder} is there already: the online store needs a folder of its own")
    live = LiveFile.of(etl)
    past = {PAST: PastEvents(etl, live.history_length).column}
    users = UsersFile(etl.file("users.parquet"), KEY, feature_names(etl), past, as_steps=(SEEN,))
    as_of = datetime.fromtimestamp(etl.metrics["as_of"], UTC)
    building = folder.parent / f".{folder.name}.building"
    shutil.rmtree(building, ignore_errors=True)
    try:
        settings = create_repository(building, config, project_name(config, etl), stored_schema(users))
        if config.type == "sqlite":
            from features.store.sqlite_rows import load_sqlite

            load_sqlite(building / ONLINE, f"{settings.project}_{VIEW}", users, as_of, progress)
        else:
            from features.store.redis_rows import load_redis

            load_redis(settings, users, as_of, progress)
        live.write(building)
        os.replace(building, folder)
    except BaseException:
        shutil.rmtree(building, ignore_errors=True)
        raise
    return users.num_users


def drop_online_store(folder: Path) -> int:
    """Remove from Redis the users of a store that no server reads any more; the folder stays, and is of no use then.

    A SQLite store lies in its folder and goes with it: nothing is done.
    Returns: users removed.
    """
    settings = repo_config(folder)
    online = online_settings(settings)
    if online.type == "sqlite":
        return 0
    from features.store.redis_rows import drop_redis_project

    return drop_redis_project(online.connection_string, settings.project)
