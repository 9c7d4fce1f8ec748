"""Stage `index`: the nearest-neighbour index over item vectors, and its use."""

from __future__ import annotations

from pathlib import Path

import faiss
import numpy as np
import pyarrow.parquet as pq

from features.artifact import Artifact, ArtifactWriter
from features.errors import CascadeError
from features.list_column import matrix_of
from retrieval.config import IndexConfig

# Q queries  D embedding  K candidates
NO_ITEM = -1

# FAISS answers 20 or more queries with a matrix product and fewer one by one, which round differently. One by one
# always: a user's candidates must not depend on who else is in the call.
faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max


class DivergedError(CascadeError, ValueError):
    """Training has left the finite numbers."""


def run(config: IndexConfig, retrieval: Artifact, seed: int, writer: ArtifactWriter) -> None:
    """Write `index.faiss` over the retrieval stage's item vectors; vector i is item_row i.

    Raises: DivergedError if a vector is not finite.
    """
    vector_ID = matrix_of(pq.read_table(retrieval.file("item_vectors.parquet"), columns=["vector"])["vector"])
    if not np.isfinite(vector_ID).all():
        bad = int(np.flatnonzero(~np.isfinite(vector_ID).all(1))[0])
        raise DivergedError(
            f"{retrieval.file('item_vectors.parquet')}: the vector of row {bad} is not finite; the model has diverged: "
            "lower retrieval.learning-rate and train again"
        )
    index = build(vector_ID, config)
    faiss.write_index(index, str(writer.path / "index.faiss"))
    writer.metrics |= {
        "kind": type(index).__name__,
        "num_vectors": int(index.ntotal),
        "dim": int(index.d),
        "recall_at_100_against_exact": recall_against_exact(index, vector_ID, seed),
    }


def build(vector_ID: np.ndarray, config: IndexConfig) -> faiss.Index:
    """Inner-product index; the graph is built by one thread, so that equal vectors give an equal file."""
    num_items, dim = vector_ID.shape
    if num_items <= config.exact_up_to:
        index = faiss.IndexFlatIP(dim)
    else:
        index = faiss.IndexHNSWFlat(dim, config.hnsw_links, faiss.METRIC_INNER_PRODUCT)
        index.hnsw.efConstruction = config.hnsw_ef_construction
        index.hnsw.efSearch = config.hnsw_ef_search
    threads = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    index.add(np.ascontiguousarray(vector_ID, dtype=np.float32))
    faiss.omp_set_num_threads(threads)
    return index


def load(path: Path) -> faiss.Index:
    return faiss.read_index(str(path))


def search(index: faiss.Index, query_QD: np.ndarray, k: int) -> tuple[np.ndarray, np.ndarray]:
    """The k items of highest inner product, best first; equal scores by item row.

    Args:
        query_QD: float32.
        k: at most the number of items is returned.
    Returns: item rows [Q, K] int64, NO_ITEM where the index found fewer, and scores [Q, K] float32, -inf there.
    """
    if query_QD.ndim != 2 or query_QD.shape[1] != index.d:
        raise ValueError(f"query_QD must be [Q, {index.d}] (the index's dimension), got {query_QD.shape}")
    k = min(k, index.ntotal)
    parameters = None
    if isinstance(index, faiss.IndexHNSW):
        parameters = faiss.SearchParametersHNSW(efSearch=max(index.hnsw.efSearch, 2 * k))
    score_QK, row_QK = index.search(np.ascontiguousarray(query_QD, dtype=np.float32), k, params=parameters)
    score_QK = np.where(row_QK == NO_ITEM, -np.inf, score_QK).astype(np.float32)
    order_QK = np.lexsort((row_QK, -score_QK), axis=1)
    return np.take_along_axis(row_QK, order_QK, 1), np.take_along_axis(score_QK, order_QK, 1)


def recall_against_exact(index: faiss.Index, vector_ID: np.ndarray, seed: int, num_queries: int = 200) -> float:
    """Share of the true 100 nearest items that the index finds, over random item vectors as queries."""
    if isinstance(index, faiss.IndexFlat):
        return 1.0
    random = np.random.default_rng(seed)
    query_QD = vector_ID[random.choice(len(vector_ID), min(num_queries, len(vector_ID)), replace=False)]
    exact = faiss.IndexFlatIP(vector_ID.shape[1])
    exact.add(np.ascontiguousarray(vector_ID, dtype=np.float32))
    k = min(100, len(vector_ID))
    found, _ = search(index, query_QD, k)
    true, _ = search(exact, query_QD, k)
    return float(np.mean([len(np.intersect1d(a, b)) / k for a, b in zip(found, true, strict=True)]))
