"""Stage `index`: the nearest-neighbour index over item vectors, and its use."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import asdict

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from features.artifact import Artifact, ArtifactWriter
from features.list_column import matrix_of
from retrieval.config import IndexConfig
from retrieval.index.choice import Measured, choose, recall
from retrieval.index.files import INDEX, load, write_files
from retrieval.index.identity import DivergedError, IndexIdentity, check_vectors
from retrieval.index.item_index import ItemIndex, State, check_unique
from retrieval.index.kinds import Flat, Kind
from retrieval.index.part import NO_ITEM, Part

# I items  Q queries  D embedding  K candidates
__all__ = ["NO_ITEM", "DivergedError", "ItemIndex", "build", "builder", "load", "recall_against_exact", "run", "search"]

_LOG = logging.getLogger(__name__)
_ADVICE = "the model has diverged: lower retrieval.learning-rate and train again"


def run(config: IndexConfig, retrieval: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write the index over the retrieval stage's item vectors; vector i is item_row i.

    Breadth and recall are measured with the users' query vectors where the artifact has them.
    Raises: DivergedError if a vector is not finite; DuplicateItemsError if an item stands twice.
    """
    path = retrieval.file("item_vectors.parquet")
    table = pq.read_table(path)
    vector_ID = matrix_of(table["vector"])
    raw_ids = table["raw_id"] if "raw_id" in table.column_names else None
    query_QD = None
    if "user_vectors.parquet" in retrieval.manifest["parts"]:
        user_path = retrieval.file("user_vectors.parquet")
        query_QD = matrix_of(pq.read_table(user_path, columns=["vector"])["vector"])
        check_vectors(query_QD, vector_ID.shape[1], user_path, _ADVICE)
    index, measured = _built(vector_ID, config, query_QD, raw_ids, identity_of(retrieval), seed, path)
    if not measured.reached:
        _LOG.warning(
            "no index reached recall@100 %.3f against exact search, so the catalogue of %d is searched exactly: "
            "slower, but complete; a lower index.recall-target lets it be searched faster",
            config.recall_target,
            len(vector_ID),
        )
    write_files(index, writer.path)
    writer.rows[INDEX] = len(vector_ID)
    writer.metrics |= asdict(measured) | {
        "measured_on": "items" if query_QD is None else "users",
        "num_vectors": len(index),
        "dim": index.dim,
        "bytes": (writer.path / INDEX).stat().st_size,
    }


def build(
    vector_ID: np.ndarray,
    config: IndexConfig,
    *,
    query_QD: np.ndarray | None = None,
    raw_ids: pa.ChunkedArray | Sequence[str | int] | None = None,
    identity: IndexIdentity | None = None,
    seed: int = 0,
) -> ItemIndex:
    """Inner-product index of the kind that the config asks for; equal arguments give an equal index.

    Args:
        query_QD: queries as users ask them, by which a large catalogue is arranged and measured; items without them.
        raw_ids: [I] the items' raw ids, by which they can be changed; None names them by their rows.
    Raises: DivergedError if a vector is not finite; DuplicateItemsError if an item stands twice.
    """
    ids = raw_ids if raw_ids is None or isinstance(raw_ids, pa.ChunkedArray) else pa.chunked_array([pa.array(raw_ids)])
    return _built(vector_ID, config, query_QD, ids, identity, seed, "item vectors")[0]


def builder(config: IndexConfig, query_QD: np.ndarray | None = None, seed: int = 0) -> Callable[[np.ndarray], Kind]:
    """What `ItemIndex.compact` builds with."""
    return lambda vector_ND: choose(vector_ND, config, query_QD, seed)[0]


def search(
    index: ItemIndex,
    query_QD: np.ndarray,
    k: int,
    *,
    forbidden: np.ndarray | None = None,
    allowed: np.ndarray | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """`ItemIndex.search`."""
    return index.search(query_QD, k, forbidden=forbidden, allowed=allowed)


def recall_against_exact(index: ItemIndex, vector_ID: np.ndarray, seed: int, num_queries: int = 200) -> float:
    """Share of the true 100 nearest items that the index finds, over random item vectors as queries."""
    query_QD = np.random.default_rng(seed).permutation(vector_ID)[:num_queries]
    true_QK = Part(Flat.of(vector_ID), None).search(query_QD, min(100, len(vector_ID)), None, None)[0]
    return float(recall(index.kind, query_QD, true_QK).mean())


def identity_of(retrieval: Artifact) -> IndexIdentity:
    """Whose vectors a retrieval artifact holds: its query encoder's hash, and the vocabulary behind its rows."""
    encoder = retrieval.manifest["parts"].get("query_encoder.onnx", {})
    return IndexIdentity(encoder.get("sha256"), retrieval.manifest.get("metrics", {}).get("vocabulary"))


def _built(
    vector_ID: np.ndarray,
    config: IndexConfig,
    query_QD: np.ndarray | None,
    raw_ids: pa.ChunkedArray | None,
    identity: IndexIdentity | None,
    seed: int,
    where: object,
) -> tuple[ItemIndex, Measured]:
    check_vectors(vector_ID, None, where, _ADVICE)
    if raw_ids is not None:
        if len(raw_ids) != len(vector_ID):
            raise ValueError(f"{where}: needed an id for each of {len(vector_ID)} vectors, got {len(raw_ids)}")
        check_unique(raw_ids.to_pylist(), where)
    kind, measured = choose(vector_ID, config, query_QD, seed)
    return ItemIndex(State(Part(kind, None), None, len(vector_ID)), raw_ids, identity), measured
