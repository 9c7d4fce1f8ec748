"""What the candidate stage proposes for interactions it has not seen: the ranker's training ground.

`proposals.parquet` has a row for each sampled interaction of the validation part: its `event`, counted from the part's
first; the `moment` from which it is to be foretold; the query's vector at that moment; and the candidates, best first,
with their merged score and with what each source thought of them. `proposing_vectors.parquet` holds the item vectors
behind them, as of the start of the validation part.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact, ArtifactWriter
from features.batches import FeatureTables
from features.history import EventLog
from features.list_column import list_column
from features.split import VALID
from retrieval.aged_state import aged_moments, user_states
from retrieval.candidates import CandidateStage
from retrieval.config import RetrievalConfig
from retrieval.item_rows import ItemRows, padded_lists
from retrieval.sources.source import Users
from retrieval.two_tower import TwoTower
from retrieval.validation import UnseenIds

# E interactions  B of a chunk  K candidates  S sources  D query and item vectors
_CHUNK = 1_024


@torch.no_grad()
def write_proposals(
    model: TwoTower,
    stage: CandidateStage,
    item_IE: np.ndarray,
    tables: FeatureTables,
    etl: Artifact,
    hidden: UnseenIds,
    config: RetrievalConfig,
    seed: int,
    writer: ArtifactWriter,
) -> None:
    """Write both parts; neither the model nor the stage may have seen the validation part.

    Args:
        item_IE: the vectors that the stage searches.
    """
    events = pq.read_table(etl.file("events.parquet"))
    valid = events["split"].to_numpy() == VALID
    user_E, timestamp_E = (events[name].to_numpy()[valid] for name in ("user_row", "timestamp"))
    moment_E = aged_moments(etl, timestamp_E, seed)
    event = np.arange(len(user_E))
    if len(event) > config.max_proposed_interactions:
        event = np.sort(np.random.default_rng(seed).choice(event, config.max_proposed_interactions, replace=False))
    log = EventLog.from_events(events) if etl.manifest["config"]["drop_seen"] else None
    rows = ItemRows(tables.items["item_id"].numpy())
    schema = _schema(model, config.num_proposals, len(stage.sources))
    with pq.ParquetWriter(writer.path / "proposals.parquet", schema) as parquet:
        for chunk in np.array_split(event, max(1, -(-len(event) // _CHUNK))):
            users = _users(model, tables, etl, hidden, rows, log, user_E[chunk], moment_E[chunk])
            merged = stage.candidates(users, config.num_proposals)
            columns = [
                pa.array(chunk),
                pa.array(moment_E[chunk]),
                list_column(users.query_BE),
                list_column(merged.row_BK),
                list_column(merged.score_BK),
                list_column(merged.source_BKS.reshape(len(chunk), -1)),
            ]
            parquet.write_table(pa.Table.from_arrays(columns, schema=schema))
    vectors = pa.table({"vector": list_column(item_IE)})
    pq.write_table(vectors, writer.path / "proposing_vectors.parquet")
    writer.rows |= {"proposals.parquet": len(event), "proposing_vectors.parquet": len(vectors)}


def _users(
    model: TwoTower,
    tables: FeatureTables,
    etl: Artifact,
    hidden: UnseenIds,
    rows: ItemRows,
    log: EventLog | None,
    user_B: np.ndarray,
    moment_B: np.ndarray,
) -> Users:
    """Users as of moments, as the sources are asked for them."""
    batch = hidden(tables.user_features(torch.from_numpy(user_B)) | user_states(etl, tables, user_B, moment_B))
    pairs = log.items_before(user_B, moment_B) if log else (np.empty(0, np.int64),) * 2
    features = {name: values.numpy() for name, values in batch.items()}
    return Users(
        features,
        rows.of_ids(features["history"]),
        padded_lists(*pairs, num_lists=len(user_B)),
        model.query_vectors(batch).numpy(),
    )


def _schema(model: TwoTower, num_proposals: int, num_sources: int) -> pa.Schema:
    def numbers(length: int) -> pa.DataType:
        return pa.list_(pa.float32(), length)

    return pa.schema(
        {
            "event": pa.int64(),
            "moment": pa.int64(),
            "query_vector": numbers(model.query_width),
            "item_row": pa.list_(pa.int64(), num_proposals),
            "merged_score": numbers(num_proposals),
            "sources": numbers(num_proposals * num_sources),
        }
    )
