"""What the retrieval model proposes for interactions it has not seen: the ranker's training ground.

`proposals.parquet` has a row for each row of `examples/valid/`: the moment from which the interaction is to be
foretold, the query's vector at that moment and the item rows proposed, best first. `proposing_vectors.parquet` holds
the item vectors behind them, as of the start of the validation part.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact, ArtifactWriter
from features.batches import FeatureTables
from features.list_column import list_column
from retrieval.aged_state import aged_batches
from retrieval.config import IndexConfig
from retrieval.index import build, search
from retrieval.popularity import PopularityTimeline
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds


@torch.no_grad()
def write_proposals(
    model: TwoTower,
    tables: FeatureTables,
    popularity: PopularityTimeline,
    etl: Artifact,
    hidden: UnseenIds,
    num_proposals: int,
    seed: int,
    writer: ArtifactWriter,
) -> None:
    """Write both parts; `model` must not have been trained on the validation part."""
    item_IE = item_vectors(model, hidden(tables.items), popularity.at(etl.metrics["valid_from"]))
    index = build(item_IE, IndexConfig())
    batches = aged_batches(etl, tables, etl.files("examples/valid/"), 1_024, seed)
    moments, queries, rows = [], [], []
    for batch in batches.in_order():
        query_BE = model.query_vectors(hidden(batch)).numpy()
        rows.append(search(index, query_BE, num_proposals)[0])
        queries.append(query_BE)
        moments.append(batch["moment"].numpy())
    proposals = pa.table(
        {
            "moment": np.concatenate(moments),
            "query_vector": list_column(np.concatenate(queries)),
            "item_row": list_column(np.concatenate(rows)),
        }
    )
    pq.write_table(proposals, writer.path / "proposals.parquet")
    pq.write_table(pa.table({"vector": list_column(item_IE)}), writer.path / "proposing_vectors.parquet")
    writer.rows |= {"proposals.parquet": len(proposals), "proposing_vectors.parquet": len(item_IE)}
