"""What the ranker learns from: validation interactions against candidates that were proposed and not taken.

The proposing model has not seen the validation part, so its scores mean the same here as they will when serving.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from pydantic import ConfigDict, Field, TypeAdapter
from pydantic.dataclasses import dataclass

from features.artifact import Artifact
from features.etl import EtlConfig, raw_interactions
from features.history import EventLog
from features.split import VALID
from ranking.dlrm import RETRIEVAL_SCORE

# E interactions  P proposals  M negatives per interaction  D embedding


@dataclass(frozen=True, kw_only=True, config=ConfigDict(extra="forbid"))
class NegativesConfig:
    """Negatives of the ranker."""

    num_proposed: Annotated[int, Field(ge=0)] = 8
    """Negatives per positive drawn from what retrieval proposed at that moment."""
    num_random: Annotated[int, Field(ge=0)] = 4
    """Negatives per positive drawn from the whole catalogue."""


def write_examples(
    config: NegativesConfig, etl: Artifact, retrieval: Artifact, seed: int, path: Path
) -> int:
    """Write labelled pairs: `label`, keys, `retrieval_score`, and every interaction feature as of its moment.

    Returns: rows written.
    """
    events = pq.read_table(etl.file("events.parquet"))
    valid = events.filter(pc.equal(events["split"], VALID))
    user_E, item_E, time_E = (valid[name].to_numpy() for name in ("user_row", "item_row", "timestamp"))
    proposals = pq.read_table(retrieval.file("proposals.parquet"))
    query_ED, proposed_EP = _matrix(proposals["query_vector"]), _matrix(proposals["item_row"])
    item_ID = _matrix(pq.read_table(retrieval.file("proposing_vectors.parquet"))["vector"])
    random = np.random.default_rng(seed)
    negative_EM = np.concatenate(
        [
            _drawn(proposed_EP, config.num_proposed, random),
            random.integers(0, len(item_ID), (len(user_E), config.num_random)),
        ],
        axis=1,
    )
    log = EventLog.from_events(events, before=etl.metrics["test_from"])
    usable_EM = ~_was_taken(events, user_E, negative_EM, time_E, etl) & (negative_EM >= 0)
    usable_EM &= _first_of_row(negative_EM)

    pair_EM = np.concatenate([item_E[:, None], negative_EM], axis=1)
    kept_EM = np.concatenate([np.ones((len(user_E), 1), bool), usable_EM], axis=1)
    example, column = np.nonzero(kept_EM)
    item = pair_EM[example, column]
    score = np.einsum("nd,nd->n", query_ED[example], item_ID[item])
    raw = raw_interactions(log, user_E[example], item, time_E[example], _etl_config(etl))

    from features.workflow import load_workflow, transform

    encoded = transform(load_workflow(etl, "interactions"), raw)
    encoded = encoded.append_column(RETRIEVAL_SCORE, pa.array(score.astype(np.float32)))
    encoded = encoded.append_column("label", pa.array((column == 0).astype(np.float32)))
    pq.write_table(encoded, path)
    return len(encoded)


def _drawn(proposed_EP: np.ndarray, num: int, random: np.random.Generator) -> np.ndarray:
    num = min(num, proposed_EP.shape[1])
    column = random.random(proposed_EP.shape).argsort(1)[:, :num]
    return np.take_along_axis(proposed_EP, column, 1)


def _was_taken(
    events: pa.Table, user_E: np.ndarray, negative_EM: np.ndarray, time_E: np.ndarray, etl: Artifact
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
    return (key[at_EM] == asked_EM) & (moment[at_EM] >= time_E[:, None])


def _first_of_row(item_EM: np.ndarray) -> np.ndarray:
    """Whether an item stands in its row for the first time."""
    order = np.argsort(item_EM, axis=1, kind="stable")
    ordered = np.take_along_axis(item_EM, order, 1)
    first = np.concatenate([np.ones((len(ordered), 1), bool), ordered[:, 1:] != ordered[:, :-1]], axis=1)
    result = np.empty_like(first)
    np.put_along_axis(result, order, first, 1)
    return result


def _etl_config(etl: Artifact) -> EtlConfig:
    return TypeAdapter(EtlConfig).validate_python(etl.manifest["config"])


def _matrix(column: pa.ChunkedArray) -> np.ndarray:
    column = column.combine_chunks()
    return column.flatten().to_numpy(zero_copy_only=False).reshape(len(column), -1)
