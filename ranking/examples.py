"""What the ranker learns from: validation interactions against candidates that were proposed and not taken.

The proposing model has not seen the validation part, so its scores mean the same here as they will when serving. Each
row is one interaction: the user as of the moment from which retrieval proposed, and a list of items of which the first
was taken; features are as of that moment.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from features.artifact import Artifact
from features.as_of import raw_interactions
from features.etl import as_of_features
from features.history import EventLog
from features.list_column import list_column, matrix_of
from features.split import VALID
from features.workflow import load_workflow, normalized_log, transform
from ranking.config import NegativesConfig
from ranking.dlrm import RETRIEVAL_SCORE, is_per_candidate

# E interactions  P proposals  M negatives per interaction  K = 1 + M items of a list  D query and item vectors


def write_examples(config: NegativesConfig, etl: Artifact, retrieval: Artifact, seed: int, path: Path) -> pa.Table:
    """Write and return lists, one a row.

    `item_row` [K]; `is_shown` [K], 0 where a place is empty; the per-candidate features and `retrieval_score` [K];
    once: user_row, timestamp (the moment), the other features, and `weight`.
    """
    events = pq.read_table(etl.file("events.parquet"))
    valid = events.filter(pc.equal(events["split"], VALID))
    user_E, taken_E = (valid[name].to_numpy() for name in ("user_row", "item_row"))
    proposals = pq.read_table(retrieval.file("proposals.parquet"))
    moment_E = proposals["moment"].to_numpy()
    query_ED, proposed_EP = matrix_of(proposals["query_vector"]), matrix_of(proposals["item_row"])
    item_ID = matrix_of(pq.read_table(retrieval.file("proposing_vectors.parquet"))["vector"])
    # An item that was not proposed never reaches the ranker. Learned from, it would teach that a low score is good.
    is_proposed_E = (proposed_EP == taken_E[:, None]).any(1)
    user_E, taken_E, moment_E = user_E[is_proposed_E], taken_E[is_proposed_E], moment_E[is_proposed_E]
    query_ED, proposed_EP = query_ED[is_proposed_E], proposed_EP[is_proposed_E]
    random = np.random.default_rng(seed)
    proposed_EM = _drawn(proposed_EP, config.num_negatives, random)
    random_EM = random.integers(0, len(item_ID), (len(user_E), config.num_random))
    negative_EM = np.concatenate([proposed_EM, random_EM], axis=1)
    is_negative_EM = ~_was_taken(events, user_E, negative_EM, moment_E, etl) & (negative_EM >= 0)
    is_negative_EM &= _is_first_in_row(negative_EM)
    item_EK = np.concatenate([taken_E[:, None], np.maximum(negative_EM, 0)], axis=1)
    is_shown_EK = np.concatenate([np.ones((len(user_E), 1), bool), is_negative_EM], axis=1)
    score_EK = np.einsum("ed,ekd->ek", query_ED, item_ID[item_EK])

    table = _features(etl, events, user_E, item_EK, moment_E)
    table = table.append_column("is_shown", list_column(is_shown_EK.astype(np.float32)))
    table = table.append_column(RETRIEVAL_SCORE, list_column(score_EK.astype(np.float32)))
    table = table.append_column("weight", pa.array(_equal_users(user_E)))
    pq.write_table(table, path)
    return table


def _features(
    etl: Artifact, events: pa.Table, user_E: np.ndarray, item_EK: np.ndarray, moment_E: np.ndarray
) -> pa.Table:
    """Encoded features as of the moments: those of a candidate as lists [K], the others once."""
    num, width = item_EK.shape
    log = EventLog.from_events(events, before=etl.metrics["test_from"])
    as_of = as_of_features(etl)
    raw = raw_interactions(log, user_E, item_EK[:, 0], moment_E, as_of)
    once = transform(load_workflow(etl, "interactions"), raw)
    columns = {name: once[name] for name in once.column_names if not is_per_candidate(name)}
    of_pair = raw_interactions(
        log, np.repeat(user_E, width), item_EK.ravel(), np.repeat(moment_E, width), as_of, as_of.item_numbers
    )
    columns["item_row"] = list_column(item_EK)
    scales = json.loads(etl.file("online.json").read_text())
    for name in as_of.item_numbers:
        columns[name] = list_column(normalized_log(of_pair[name].to_numpy(), *scales[name]).reshape(num, width))
    return pa.table(columns)


def _equal_users(user_E: np.ndarray) -> np.ndarray:
    """Weights of mean 1 that give every user the same sum: quality is counted by user, not by interaction."""
    distinct, place_E, num_E = np.unique(user_E, return_inverse=True, return_counts=True)
    return (len(user_E) / len(distinct) / num_E[place_E]).astype(np.float32) if len(user_E) else np.empty(0, np.float32)


def _drawn(proposed_EP: np.ndarray, num: int, random: np.random.Generator) -> np.ndarray:
    num = min(num, proposed_EP.shape[1])
    column = random.random(proposed_EP.shape).argsort(1)[:, :num]
    return np.take_along_axis(proposed_EP, column, 1)


def _is_first_in_row(item_EM: np.ndarray) -> np.ndarray:
    """False where the item stands further to the left already."""
    order = np.argsort(item_EM, axis=1, kind="stable")
    ordered = np.take_along_axis(item_EM, order, 1)
    is_first = np.empty_like(item_EM, dtype=bool)
    np.put_along_axis(is_first, order, np.diff(ordered, axis=1, prepend=ordered[:, :1] - 1) != 0, 1)
    return is_first


def _was_taken(
    events: pa.Table, user_E: np.ndarray, negative_EM: np.ndarray, moment_E: np.ndarray, etl: Artifact
) -> np.ndarray:
    """Pairs that are no negatives: taken from this moment to the end of the validation part, or seen and dropped."""
    user, item, time = (events[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
    known = time < etl.metrics["test_from"]
    num_items = etl.metrics["num_items"]
    key = user[known] * num_items + item[known]
    asked_EM = user_E[:, None] * num_items + negative_EM
    if etl.manifest["config"]["drop_seen"]:
        return np.isin(asked_EM, key)
    order = np.lexsort((time[known], key))
    key, moment = key[order], time[known][order]
    is_last = np.append(key[1:] != key[:-1], True)
    key, moment = key[is_last], moment[is_last]
    at_EM = np.clip(np.searchsorted(key, asked_EM), 0, len(key) - 1)
    return (key[at_EM] == asked_EM) & (moment[at_EM] >= moment_E[:, None])
