"""What the ranker learns from: lists of candidates proposed as they are when serving, and what was taken then.

The proposing stage of a list has not seen the period after the list's moment, so its scores mean the same here as they
will when serving. Each row is one list: the user as of the moment, the candidates in retrieval's order, and which of
them the user took before the period was over. Features are as of the moment.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.artifact import Artifact
from features.as_of import HISTORY, raw_interactions
from features.batches import FeatureTables
from features.errors import CascadeError
from features.etl import as_of_features
from features.history import EventLog
from features.list_column import list_column, matrix_of
from features.log_scale import normalized_log
from features.schema import FIRST_KNOWN
from features.workflow import load_workflow, transform
from ranking.config import NegativesConfig
from ranking.pair_features import (
    ABSOLUTE,
    NUM_WINDOWS,
    RETRIEVAL_SCORE,
    TWO_TOWER_SCORE,
    attribute_names,
    is_per_candidate,
    source_feature,
)
from ranking.taste import NO_ITEM, affinities, attributes_at, in_demand, relative_numbers, similarities

# B lists  K candidates  S sources  I items  N history  E vectors  P popularity
NEEDED = ("origin", "user_row", "moment", "until", "query_vector", "item_row", "merged_score", "sources")


class ExamplesError(CascadeError, ValueError):
    """The retrieval artifact holds no lists that the ranker can learn from."""


def source_names(retrieval: Artifact) -> list[str]:
    """The candidate sources, in the order in which proposals carry what they said."""
    return [source["name"] for source in json.loads(retrieval.file("sources/merge.json").read_text())["sources"]]


def write_examples(config: NegativesConfig, etl: Artifact, retrieval: Artifact, seed: int, path: Path) -> pa.Table:
    """Write and return lists, one a row.

    `item_row` [K]; `is_shown` [K], 0 where a place is empty or the user took the item where it does not count;
    `is_taken` [K]; the per-candidate features [K]; once: user_row, timestamp (the moment), `origin`, the user's
    features, and `num_taken`, how many items the user took, proposed or not. A list of which nothing was taken is left
    out. Of more than `config.max_lists` a sample drawn with the seed is written.

    Raises: ExamplesError if the proposals are of another form.
    """
    proposals = _proposals(retrieval)
    events = pq.read_table(etl.file("events.parquet"))
    is_taken_BK, num_taken_B = _taken(events, proposals, etl.metrics["num_items"])
    useful = np.flatnonzero(is_taken_BK.any(1))
    if len(useful) > config.max_lists:
        useful = np.sort(np.random.default_rng(seed).choice(useful, config.max_lists, replace=False))
    proposals, is_taken_BK, num_taken_B = proposals.take(useful), is_taken_BK[useful], num_taken_B[useful]
    row_BK = matrix_of(proposals["item_row"])

    user_B, moment_B = (proposals[name].to_numpy() for name in ("user_row", "moment"))
    table = _of_users(etl, events, user_B, moment_B)
    columns = {
        "item_row": np.maximum(row_BK, 0),
        "is_shown": (row_BK != NO_ITEM).astype(np.float32),
        "is_taken": is_taken_BK.astype(np.float32),
    }
    columns |= _said_by_retrieval(retrieval, proposals, row_BK)
    columns |= _of_origins(etl, retrieval, events, proposals, table, row_BK)
    for name, value_BK in columns.items():
        table = table.append_column(name, list_column(value_BK))
    table = table.append_column("origin", proposals["origin"])
    table = table.append_column("num_taken", pa.array(num_taken_B))
    pq.write_table(table, path)
    return table


def _proposals(retrieval: Artifact) -> pa.Table:
    path = retrieval.file("proposals.parquet")
    there = pq.read_schema(path).names
    missing = [name for name in NEEDED if name not in there]
    if missing:
        raise ExamplesError(
            f"{path} must have the columns {', '.join(NEEDED)}, it lacks {', '.join(missing)}: another version of "
            "Cascade wrote it; run `retrieval` again"
        )
    table = pq.read_table(path)
    width, num_sources = table.schema.field("sources").type.list_size, len(source_names(retrieval))
    if width != table.schema.field("item_row").type.list_size * num_sources:
        raise ExamplesError(
            f"{path}: the lists of `sources` must have {num_sources} numbers for each of the "
            f"{table.schema.field('item_row').type.list_size} candidates, they have {width}: the file does not belong "
            f"to {retrieval.path / 'sources'}; run `retrieval` again"
        )
    return table


def _taken(events: pa.Table, proposals: pa.Table, num_items: int) -> tuple[np.ndarray, np.ndarray]:
    """[B, K] whether the user took the candidate within the list's period; [B] distinct items taken in it."""
    user, item, time = (events[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
    user_B, row_BK, origin_B = proposals["user_row"].to_numpy(), matrix_of(proposals["item_row"]), proposals["origin"]
    is_taken_BK, num_taken_B = np.zeros(row_BK.shape, bool), np.zeros(len(user_B), np.int64)
    for origin in np.unique(origin_B.to_numpy()):
        lists = np.flatnonzero(origin_B.to_numpy() == origin)
        begin, end = (proposals[name][int(lists[0])].as_py() for name in ("moment", "until"))
        within = (time >= begin) & (time < end)
        key = np.unique(user[within] * num_items + item[within])
        is_taken_BK[lists] = np.isin(user_B[lists, None] * num_items + row_BK[lists], key) & (row_BK[lists] != NO_ITEM)
        num_taken_B[lists] = np.bincount(key // num_items, minlength=user_B.max() + 1)[user_B[lists]]
    return is_taken_BK, num_taken_B


def _of_users(etl: Artifact, events: pa.Table, user_B: np.ndarray, moment_B: np.ndarray) -> pa.Table:
    log = EventLog.from_events(events, before=etl.metrics["test_from"])
    raw = raw_interactions(log, user_B, np.zeros_like(user_B), moment_B, as_of_features(etl))
    once = transform(load_workflow(etl, "interactions"), raw)
    return pa.table({name: once[name] for name in once.column_names if not is_per_candidate(name)})


def _said_by_retrieval(retrieval: Artifact, proposals: pa.Table, row_BK: np.ndarray) -> dict[str, np.ndarray]:
    """[B, K] scores and ranks of the candidates; 0 where there is none."""
    names = source_names(retrieval)
    said_BKS = matrix_of(proposals["sources"]).reshape(*row_BK.shape, len(names))
    said = {RETRIEVAL_SCORE: matrix_of(proposals["merged_score"])}
    return said | {source_feature(name): said_BKS[..., source] for source, name in enumerate(names)}


def _of_origins(
    etl: Artifact, retrieval: Artifact, events: pa.Table, proposals: pa.Table, once: pa.Table, row_BK: np.ndarray
) -> dict[str, np.ndarray]:
    """[B, K] of what depends on the items as they were at each origin."""
    tables, num_items = FeatureTables(etl), etl.metrics["num_items"]
    attribute = {name: tables.items[name].numpy() for name in attribute_names(tables.schema)}
    row_of_id = _row_of_id(tables.items["item_id"].numpy())
    history_BN = row_of_id[np.minimum(matrix_of(once[HISTORY]), len(row_of_id) - 1)]
    query_BE, origin_B = matrix_of(proposals["query_vector"]), proposals["origin"].to_numpy()
    vectors = pq.read_table(retrieval.file("proposing_vectors.parquet"))
    columns: dict[str, np.ndarray] = {}
    for origin in np.unique(origin_B):
        lists = np.flatnonzero(origin_B == origin)
        part = vectors.slice(origin * num_items, num_items)
        item_IE, popularity_IP = matrix_of(part["vector"]), matrix_of(part["popularity"])
        moment = proposals["moment"][int(lists[0])].as_py()
        rows_bK, history_bN = row_BK[lists], history_BN[lists]
        demand = popularity_IP[:, :NUM_WINDOWS]
        relative = relative_numbers(_numbers(etl, events, moment), demand)
        found = {name: value_I[np.maximum(rows_bK, 0)] for name, value_I in relative.items()}
        found |= similarities(rows_bK, history_bN, item_IE[:, : -popularity_IP.shape[1]])
        found |= affinities(rows_bK, history_bN, attributes_at(attribute, in_demand(demand)))
        found[TWO_TOWER_SCORE] = np.einsum("bkd,bd->bk", item_IE[np.maximum(rows_bK, 0)], query_BE[lists])
        for name, value_bK in found.items():
            columns.setdefault(name, np.zeros(row_BK.shape, np.float32))[lists] = value_bK
    return columns


def _numbers(etl: Artifact, events: pa.Table, moment: int) -> dict[str, np.ndarray]:
    """[I] of the items' numbers at a moment by name, scaled as the etl stage does."""
    log, as_of = EventLog.from_events(events, before=moment), as_of_features(etl)
    item_I = np.arange(etl.metrics["num_items"])
    raw = raw_interactions(log, np.zeros_like(item_I), item_I, np.full_like(item_I, moment), as_of, as_of.item_numbers)
    scales = json.loads(etl.file("online.json").read_text())
    return {name: normalized_log(raw[name].to_numpy(), *scales[name]) for name in ABSOLUTE if name in raw.column_names}


def _row_of_id(item_id_I: np.ndarray) -> np.ndarray:
    """Item row by encoded id; NO_ITEM for one that names no item of its own."""
    row_of_id = np.full(max(int(item_id_I.max(initial=0)), FIRST_KNOWN) + 2, NO_ITEM)
    is_known = item_id_I >= FIRST_KNOWN
    row_of_id[item_id_I[is_known]] = np.flatnonzero(is_known)
    return row_of_id
