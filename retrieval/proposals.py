"""What the candidate stage proposes to users before it knows what they will take: the ranker's training ground.

`proposals.parquet` has a row for each user who came back in the period after an origin: `origin`, its number, the
validation part's first; `user_row`; the `moment` of the origin and `until`, the end of its period; the user's vector at
that moment; and the candidates, best first, with their merged score and with what each source thought of them.
`proposing_vectors.parquet` has the item vectors behind them, `num_items` rows for each origin, and apart from them the
popularity that they end with.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact, ArtifactWriter
from features.batches import FeatureTables
from features.history import EventLog
from features.list_column import list_column
from retrieval.aged_state import user_states
from retrieval.config import RetrievalConfig
from retrieval.item_rows import ItemRows, padded_lists
from retrieval.origins import Origin
from retrieval.popularity import NUM_COORDINATES
from retrieval.sources.source import Users

# B of a chunk  K candidates  S sources  E query and item vectors  I items
_CHUNK = 1_024


@torch.no_grad()
def write_proposals(
    origins: Sequence[Origin],
    tables: FeatureTables,
    etl: Artifact,
    config: RetrievalConfig,
    seed: int,
    writer: ArtifactWriter,
) -> None:
    """Write both parts."""
    events = pq.read_table(etl.file("events.parquet"))
    log = EventLog.from_events(events) if etl.manifest["config"]["drop_seen"] else None
    rows = ItemRows(tables.items["item_id"].numpy())
    user_E, timestamp_E = (events[name].to_numpy() for name in ("user_row", "timestamp"))
    first = origins[0]
    schema = _schema(first.model.query_width, config.num_proposals, len(first.stage.sources))
    vector_type = pa.list_(pa.float32(), first.item_IE.shape[1])
    vectors = pa.schema({"vector": vector_type, "popularity": pa.list_(pa.float32(), NUM_COORDINATES)})
    written = {"proposals.parquet": 0, "proposing_vectors.parquet": 0}
    with (
        pq.ParquetWriter(writer.path / "proposals.parquet", schema) as parquet,
        pq.ParquetWriter(writer.path / "proposing_vectors.parquet", vectors) as vectors_parquet,
    ):
        for number, origin in enumerate(origins):
            users = np.unique(user_E[(timestamp_E >= origin.moment) & (timestamp_E < origin.until)])
            if len(users) > config.max_proposed_users:
                users = np.sort(np.random.default_rng(seed).choice(users, config.max_proposed_users, replace=False))
            for chunk in np.array_split(users, max(1, -(-len(users) // _CHUNK))):
                asked = _users(origin, tables, etl, rows, log, chunk)
                merged = origin.stage.candidates(asked, config.num_proposals)
                columns = [
                    pa.array(np.full(len(chunk), number)),
                    pa.array(chunk.astype(np.int64)),
                    pa.array(np.full(len(chunk), origin.moment)),
                    pa.array(np.full(len(chunk), origin.until)),
                    list_column(asked.query_BE),
                    list_column(merged.row_BK),
                    list_column(merged.score_BK),
                    list_column(merged.source_BKS.reshape(len(chunk), -1)),
                ]
                parquet.write_table(pa.Table.from_arrays(columns, schema=schema))
            parts = [list_column(origin.item_IE), list_column(origin.item_IE[:, -NUM_COORDINATES:])]
            vectors_parquet.write_table(pa.Table.from_arrays(parts, schema=vectors))
            written["proposals.parquet"] += len(users)
            written["proposing_vectors.parquet"] += len(origin.item_IE)
    writer.rows |= written


def _users(
    origin: Origin, tables: FeatureTables, etl: Artifact, rows: ItemRows, log: EventLog | None, user_B: np.ndarray
) -> Users:
    """Users as of the origin, as the sources are asked for them."""
    moment_B = np.full(len(user_B), origin.moment)
    attributes = tables.user_features(torch.from_numpy(user_B))
    batch = origin.hidden(attributes | user_states(etl, tables, user_B, moment_B))
    pairs = log.items_before(user_B, moment_B) if log else (np.empty(0, np.int64),) * 2
    features = {name: values.numpy() for name, values in batch.items()}
    return Users(
        features,
        rows.of_ids(features["history"]),
        padded_lists(*pairs, num_lists=len(user_B)),
        origin.model.query_vectors(batch).numpy(),
    )


def _schema(query_width: int, num_proposals: int, num_sources: int) -> pa.Schema:
    def numbers(length: int) -> pa.DataType:
        return pa.list_(pa.float32(), length)

    return pa.schema(
        {
            "origin": pa.int64(),
            "user_row": pa.int64(),
            "moment": pa.int64(),
            "until": pa.int64(),
            "query_vector": numbers(query_width),
            "item_row": pa.list_(pa.int64(), num_proposals),
            "merged_score": numbers(num_proposals),
            "sources": numbers(num_proposals * num_sources),
        }
    )
