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
from ranking.pair_features import RETRIEVAL_SCORE, TWO_TOWER_SCORE, is_per_candidate, source_feature

# E interactions  P proposals  S sources  M negatives per interaction  K = 1 + M items of a list  D vectors
_PAIRS_PER_CHUNK = 20_000_000


def source_names(retrieval: Artifact) -> list[str]:
    """The candidate sources, in the order in which proposals carry what they said."""
    return [source["name"] for source in json.loads(retrieval.file("sources/merge.json").read_text())["sources"]]


def write_examples(config: NegativesConfig, etl: Artifact, retrieval: Artifact, seed: int, path: Path) -> pa.Table:
    """Write and return lists, one a row.

    `item_row` [K]; `is_shown` [K], 0 where a place is empty; the per-candidate features and what retrieval says of the
    pairs [K]; once: user_row, timestamp (the moment), the other features, and `weight`.
    """
    events = pq.read_table(etl.file("events.parquet"))
    proposals = pq.read_table(retrieval.file("proposals.parquet"))
    valid = events.filter(pc.equal(events["split"], VALID)).take(proposals["event"])
    # An item that was not proposed never reaches the ranker. Learned from, it would teach that a low score is good.
    is_proposed_E = (matrix_of(proposals["item_row"]) == valid["item_row"].to_numpy()[:, None]).any(1)
    proposals, valid = proposals.filter(pa.array(is_proposed_E)), valid.filter(pa.array(is_proposed_E))
    user_E, taken_E = (valid[name].to_numpy() for name in ("user_row", "item_row"))
    moment_E, proposed_EP = proposals["moment"].to_numpy(), matrix_of(proposals["item_row"])
    random = np.random.default_rng(seed)
    num_items = etl.metrics["num_items"]
    proposed_EM = _drawn(proposed_EP, config.num_negatives, random)
    random_EM = random.integers(0, num_items, (len(user_E), config.num_random))
    negative_EM = np.concatenate([proposed_EM, random_EM], axis=1)
    is_negative_EM = ~_was_taken(events, user_E, negative_EM, moment_E, etl) & (negative_EM >= 0)
    is_negative_EM &= _is_first_in_row(negative_EM)
    item_EK = np.concatenate([taken_E[:, None], np.maximum(negative_EM, 0)], axis=1)
    is_shown_EK = np.concatenate([np.ones((len(user_E), 1), bool), is_negative_EM], axis=1)

    table = _features(etl, events, user_E, item_EK, moment_E)
    table = table.append_column("is_shown", list_column(is_shown_EK.astype(np.float32)))
    for name, value_EK in _said_by_retrieval(retrieval, proposals, proposed_EP, item_EK).items():
        table = table.append_column(name, list_column(value_EK.astype(np.float32)))
    table = table.append_column("weight", pa.array(_equal_users(user_E)))
    pq.write_table(table, path)
    return table


def _said_by_retrieval(
    retrieval: Artifact, proposals: pa.Table, proposed_EP: np.ndarray, item_EK: np.ndarray
) -> dict[str, np.ndarray]:
    """[E, K] scores and ranks of the pairs; what only the sources know is 0 for an item that was not proposed."""
    names = source_names(retrieval)
    place_EK = _places(proposed_EP, item_EK)
    was_proposed_EK = place_EK >= 0
    merged_EP = matrix_of(proposals["merged_score"])
    said_EPS = matrix_of(proposals["sources"]).reshape(*proposed_EP.shape, len(names))
    item_ID = matrix_of(pq.read_table(retrieval.file("proposing_vectors.parquet"))["vector"])
    query_ED = matrix_of(proposals["query_vector"])
    of_proposed = {RETRIEVAL_SCORE: merged_EP}
    of_proposed |= {source_feature(name): said_EPS[..., source] for source, name in enumerate(names)}
    said = {
        name: np.where(was_proposed_EK, np.take_along_axis(value_EP, np.maximum(place_EK, 0), 1), 0.0)
        for name, value_EP in of_proposed.items()
    }
    return said | {TWO_TOWER_SCORE: np.einsum("ed,ekd->ek", query_ED, item_ID[item_EK])}


def _places(proposed_EP: np.ndarray, item_EK: np.ndarray) -> np.ndarray:
    """[E, K] where each item stands among the proposals of its row, -1 if nowhere."""
    place_EK = np.full(item_EK.shape, -1)
    step = max(1, _PAIRS_PER_CHUNK // max(1, proposed_EP.shape[1] * item_EK.shape[1]))
    for begin in range(0, len(item_EK), step):
        rows = slice(begin, begin + step)
        equal_EKP = item_EK[rows, :, None] == proposed_EP[rows, None, :]
        place_EK[rows] = np.where(equal_EKP.any(2), equal_EKP.argmax(2), -1)
    return place_EK


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
