"""The vectors of users or items as a Parquet file for other systems: a vector database, a notebook, another ranker."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from features.artifact import Artifact
from pipelines.replaced_file import replaced

ROWS_PER_GROUP = 65_536
ENTITIES = ("users", "items")


def write_embeddings(retrieval: Artifact, entity: str, out: Path) -> tuple[int, int]:
    """Copy the retrieval artifact's vectors of an entity to `out`, a row group at a time.

    Columns: `user_id` or `item_id` (text), `vector` (list of float32, all of one length). The schema's metadata holds,
    under the key "cascade", a JSON object that says which model they are from and how they are compared.

    Args:
        entity: one of ENTITIES.
    Returns: number of rows and length of the vectors.
    Raises: ArtifactError if the artifact has no such vectors; TargetError.
    """
    with (
        pq.ParquetFile(retrieval.file(f"{entity.removesuffix('s')}_vectors.parquet")) as vectors,
        replaced(out) as file,
    ):
        width = vectors.schema_arrow.field("vector").type.list_size
        schema = _schema(retrieval, entity, width)
        with pq.ParquetWriter(file, schema, compression="zstd") as writer:
            for batch in vectors.iter_batches(ROWS_PER_GROUP, columns=["raw_id", "vector"]):
                writer.write_table(pa.Table.from_batches([batch]).rename_columns(schema.names).cast(schema))
        return vectors.metadata.num_rows, width


def num_taste_coordinates(retrieval: Artifact) -> int:
    """How many leading coordinates of a vector say what it is like; those behind them are about popularity."""
    return retrieval.manifest["config"]["two_tower"]["embedding_dim"]


def _schema(retrieval: Artifact, entity: str, width: int) -> pa.Schema:
    about = {
        "entity": entity,
        "model": retrieval.content_hash,
        "width": width,
        "taste_coordinates": num_taste_coordinates(retrieval),
        "score": "the inner product of a user's and an item's whole vector orders items for the user; "
        "behind the taste coordinates stand the user's weights of popularity and the item's popularity",
        "similarity": "the cosine of the taste coordinates alone says how alike two items or two users are",
    }
    fields = [
        pa.field(f"{entity.removesuffix('s')}_id", pa.string(), nullable=False),
        pa.field("vector", pa.list_(pa.float32(), width), nullable=False),
    ]
    return pa.schema(fields, {"cascade": json.dumps(about)})
