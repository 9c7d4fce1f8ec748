"""Slates of every user of a run into the file that the server falls back on."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow.parquet as pq
from tqdm import tqdm

from ensemble.config import ServingConfig
from ensemble.operators.forbid_items import ForbidItems
from ensemble.pipeline import HASHES, Pipeline
from ensemble.request import Request
from ensemble.slate_cache import write_slates
from features.artifact import file_sha256
from pipelines.batch_recommend import Ask, answers, check_whole, requests
from pipelines.replaced_file import replaced
from pipelines.user_list import UserList

# B users  k items of a slate  S items seen
NO_ITEM = -1


class Made(NamedTuple):
    item_id_Bk: np.ndarray
    seen_row_BS: np.ndarray
    source_B: np.ndarray


def build_cache(
    version_folder: Path, users: UserList, k: int, out: Path, config: ServingConfig, num_processes: int = 1
) -> int:
    """Ask for every user, and put the slates in place of those in `out` when the last user's is among them.

    Slates are made without sampling: what is drawn once would be the same for days.

    Args:
        version_folder: the exported model, `<repository>/cascade/1`.
        num_processes: processes that answer, each with a whole pipeline in memory; the slates are the same.
    Returns: number of users.
    Raises: RequestError if k or an id cannot be served; BatchError if the store cannot be read or a part fails;
        TargetError.
    """
    ask = Ask(k, temperature=0.0)
    ask.request(["checks what is the same for all"])
    item_ids = pq.read_table(version_folder / "ensemble/items.parquet", columns=["raw_id"])["raw_id"].to_pylist()
    without_cache = replace(config, cache=replace(config.cache, mode="off"))
    made = answers(version_folder, requests(users, ask), num_processes, made_of, without_cache)
    about: dict[str, Any] = {
        "version": file_sha256(version_folder / HASHES)[:16],
        "as_of": json.loads((version_folder / HASHES).read_text())["as_of"],
        "made_at": time.time(),
        "k": k,
    }
    with (
        replaced(out) as building,
        tqdm(desc="cache", total=len(users), unit=" users", disable=None, leave=False) as progress,
    ):
        return write_slates(building, about, item_ids, _slates(version_folder, item_ids, made, progress))


def _slates(
    version_folder: Path, item_ids: list[str], made: Iterator[tuple[list[str], Made]], progress: tqdm
) -> Iterator[tuple[str, np.ndarray, np.ndarray]]:
    """User, numbers of the slate's items, and of those the user had."""
    number_of = {item_id: number for number, item_id in enumerate(item_ids)}
    num_users = 0
    for batch, (item_id_Bk, seen_row_BS, source_B) in made:
        check_whole(source_B, version_folder, num_users)
        for user_id, ids, seen in zip(batch, item_id_Bk.tolist(), seen_row_BS, strict=True):
            yield user_id, np.array([number_of[item_id] for item_id in ids if item_id], int), seen[seen != NO_ITEM]
        num_users += len(batch)
        progress.update(len(batch))


def made_of(pipeline: Pipeline, request: Request) -> Made:
    """Slates and what the users had, for `answers`."""
    columns = pipeline.columns(request)
    drops_seen = any(one.drop_seen for one in pipeline.operators if isinstance(one, ForbidItems))
    seen_row_BS = columns["seen_row"] if drops_seen else np.full((len(request), 0), NO_ITEM)
    return Made(columns["item_ids"], seen_row_BS, columns["source_name"])
