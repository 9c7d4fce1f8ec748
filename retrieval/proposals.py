"""What the retrieval model proposes for interactions it has not seen: the ranker's training ground.

`proposals.parquet` has a row for each row of `examples/valid.parquet`: the query's vector at that moment and the item
rows proposed, best first. `proposing_vectors.parquet` holds the item vectors behind them.
"""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from features.artifact import Artifact, ArtifactWriter
from features.batches import Batches, FeatureTables
from retrieval.index import IndexConfig, build, search
from retrieval.two_tower import TwoTower, item_vectors
from retrieval.validation import UnseenIds


@torch.no_grad()
def write_proposals(
    model: TwoTower, tables: FeatureTables, etl: Artifact, hidden: UnseenIds, num_proposals: int, writer: ArtifactWriter
) -> None:
    """Write both parts; `model` must not have been trained on the validation part."""
    item_ID = item_vectors(model, hidden(tables.items))
    index = build(item_ID, IndexConfig())
    examples = Batches([etl.file("examples/valid.parquet")], tables, 4_096, seed=0)
    query_ED = np.concatenate([model.query_vectors(hidden(batch)).numpy() for batch in examples.in_order()])
    rows = [search(index, query_ED[begin : begin + 1_024], num_proposals)[0] for begin in range(0, len(query_ED), 1_024)]
    proposals = {"query_vector": vector_column(query_ED), "item_row": vector_column(np.concatenate(rows))}
    pq.write_table(pa.table(proposals), writer.path / "proposals.parquet")
    pq.write_table(pa.table({"vector": vector_column(item_ID)}), writer.path / "proposing_vectors.parquet")
    writer.rows |= {"proposals.parquet": len(query_ED), "proposing_vectors.parquet": len(item_ID)}


def vector_column(matrix: np.ndarray) -> pa.FixedSizeListArray:
    """A matrix as one list column, a row a list."""
    return pa.FixedSizeListArray.from_arrays(pa.array(np.ascontiguousarray(matrix).reshape(-1)), matrix.shape[1])
