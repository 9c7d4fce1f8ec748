"""What an evaluation keeps of every test user, or impression: two runs are compared in pairs by it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from pipelines.replaced_file import replaced

# B test users  N test impressions  U groups of impressions
USERS_FILE, IMPRESSIONS_FILE = "evaluation_users.parquet", "evaluation_impressions.parquet"
USER_ID = "user_id"


def write_user_values(user_ids: list[str], stages: Mapping[str, Mapping[str, np.ndarray]], out: Path) -> None:
    """One row a test user: the raw id, and Cascade's metrics [B] as "stage metric"."""
    columns = {f"{stage} {name}": one_B for stage, values in stages.items() for name, one_B in values.items()}
    _write({USER_ID: user_ids, **columns}, out / USERS_FILE)


def write_impression_values(
    label_N: np.ndarray, group_N: np.ndarray | None, probability_N: np.ndarray, out: Path
) -> None:
    """One row a test impression, in their order: the label, whose it is if that is known, what Cascade said."""
    groups = {} if group_N is None else {"group": group_N.astype(np.int32)}
    label_N = label_N.astype(np.int8)
    _write({"label": label_N, **groups, "probability": probability_N}, out / IMPRESSIONS_FILE)


def read_values(folder: Path, name: str) -> pa.Table | None:
    """None if the run was evaluated before such files were kept, or not at all."""
    return pq.read_table(folder / name) if (folder / name).is_file() else None


def _write(columns: Mapping[str, object], path: Path) -> None:
    with replaced(path) as building:
        pq.write_table(pa.table(dict(columns)), building, compression="zstd")
