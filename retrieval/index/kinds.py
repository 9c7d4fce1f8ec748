"""The three ways to search: exactly, through an HNSW graph, through cells of PQ codes refined with the vectors.

Each keeps the vectors themselves in its FAISS index, takes a FAISS selector and answers by inner product; how broadly
it searches is left open, and `retrieval.index.choice` sets it by measuring.
"""

from __future__ import annotations

import math
from functools import cache
from typing import Any, Protocol

import faiss
import numpy as np

from retrieval.config import IndexConfig
from retrieval.index.space import SphereSpace

# Q queries  D embedding  W width as stored  N vectors  K candidates
MEASURED_AT = 100
"""Candidates at which the breadth is set; a deeper search is broadened in proportion."""
_POINTS_PER_CELL, _TRAINING_ROUNDS, _SEED = 64, 10, 1_234
_QUERY_BY_QUERY = 11
"""FAISS's scan of codes that looks at no two queries together, whose ties it would break in another way than alone."""
_TINY = np.finfo(np.float32).tiny  # NumPy takes a tenth of a millisecond to look it up

# FAISS answers many queries (Q x D beyond this number) with a matrix product and fewer one by one, which round
# differently. One by one always: a user's candidates must not depend on who else is in the call.
faiss.cvar.distance_compute_blas_threshold = np.iinfo(np.int32).max


class Kind(Protocol):
    """One way to search N vectors."""

    name: str
    index: Any
    """The FAISS index, as it is written to the file."""
    raw: Any
    """The FAISS index of the vectors [N, W] inside it."""
    dim: int
    """D."""

    def queries(self, query_QD: np.ndarray) -> np.ndarray:
        """[Q, W] the queries as the index takes them."""
        ...

    def nearest(self, query_QW: np.ndarray, k: int, selector: Any, broadened: float) -> np.ndarray:
        """Positions [Q, at least k] of the vectors that may be best, in no order, -1 in empty places; those of a query
        do not depend on the others.

        Args:
            selector: the FAISS selector of what may be answered; None for everything.
            broadened: factor on the breadth, 1 or more, where the selector lets little through.
        """
        ...

    @property
    def parameters(self) -> dict[str, float]:
        """How it was built and how broadly it searches."""
        ...

    def vectors(self) -> np.ndarray:
        """[N, D] float32, not to be written to: it may be a view that lives as long as the index."""
        ...

    def subset(self, position: np.ndarray) -> Kind:
        """The vectors at some positions, ascending, searched in the same way and with the same breadth."""
        ...


class Flat:
    """Exact: every vector is compared."""

    name = "flat"

    def __init__(self, index: Any) -> None:
        self.index = self.raw = index
        self.dim: int = index.d

    @classmethod
    def of(cls, vector_ND: np.ndarray) -> Flat:
        index = faiss.IndexFlatIP(vector_ND.shape[1])
        index.add(np.ascontiguousarray(vector_ND, dtype=np.float32))
        return cls(index)

    def queries(self, query_QD: np.ndarray) -> np.ndarray:
        return query_QD

    def nearest(self, query_QW: np.ndarray, k: int, selector: Any, broadened: float) -> np.ndarray:
        return exactly_nearest(self, query_QW, k, selector)

    @property
    def parameters(self) -> dict[str, float]:
        return {}

    def vectors(self) -> np.ndarray:
        return view(self.raw)

    def subset(self, position: np.ndarray) -> Flat:
        return Flat.of(view(self.raw)[position])


class Hnsw:
    """A graph of neighbours. Source: Malkov & Yashunin, TPAMI 2020."""

    name = "hnsw"

    def __init__(self, index: Any, space: SphereSpace) -> None:
        self.index, self.space = index, space
        self.raw = faiss.downcast_index(index.storage)
        self.dim: int = index.d - 1
        self._radius = _length(self.raw)

    @classmethod
    def of(cls, vector_ND: np.ndarray, config: IndexConfig, space: SphereSpace) -> Hnsw:
        index = faiss.IndexHNSWFlat(vector_ND.shape[1] + 1, config.hnsw_links, faiss.METRIC_L2)
        index.hnsw.efConstruction = config.hnsw_ef_construction
        index.add(space.items(vector_ND))
        return cls(index, space)

    def queries(self, query_QD: np.ndarray) -> np.ndarray:
        return self.space.queries(query_QD)

    def nearest(self, query_QW: np.ndarray, k: int, selector: Any, broadened: float) -> np.ndarray:
        ef_search = math.ceil(max(self.index.hnsw.efSearch * max(1.0, k / MEASURED_AT), 2 * k) * broadened)
        parameters = faiss.SearchParametersHNSW()
        parameters.efSearch, parameters.sel = min(ef_search, self.index.ntotal), selector
        return _nearest(self.index, _stretched(query_QW, self._radius), k, parameters)

    @property
    def parameters(self) -> dict[str, float]:
        links = self.index.hnsw.nb_neighbors(1)
        return {"links": links, "ef_search": self.index.hnsw.efSearch}

    def vectors(self) -> np.ndarray:
        return self.space.vectors(view(self.raw))

    def subset(self, position: np.ndarray) -> Hnsw:
        whole = self.index
        index = faiss.IndexHNSWFlat(whole.d, whole.hnsw.nb_neighbors(1), faiss.METRIC_L2)
        index.hnsw.efConstruction, index.hnsw.efSearch = whole.hnsw.efConstruction, whole.hnsw.efSearch
        index.add(np.ascontiguousarray(view(self.raw)[position]))
        return Hnsw(index, self.space)


class IvfPq:
    """Cells around centroids, scanned by 4-bit codes of every coordinate; the best by code are compared themselves.

    Sources: Jegou et al., TPAMI 2011 (cells and residual codes); Andre et al., VLDB 2015 (scan in registers).
    """

    name = "ivf_pq"

    def __init__(self, index: Any, space: SphereSpace) -> None:
        self.index, self.space = index, space
        self.codes = faiss.downcast_index(index.base_index)
        self.raw = faiss.downcast_index(index.refine_index)
        self.codes.implem = _QUERY_BY_QUERY
        self.dim: int = index.d - 1
        self._radius = _length(self.raw)

    @classmethod
    def of(cls, vector_ND: np.ndarray, config: IndexConfig, space: SphereSpace) -> IvfPq:
        item_NW = space.items(vector_ND)
        num_vectors, width = item_NW.shape
        num_cells = 2 ** max(2, round(math.log2(num_vectors) / 2))
        centroids = faiss.IndexFlatL2(width)
        codes = faiss.IndexIVFPQFastScan(centroids, width, num_cells, width, 4, faiss.METRIC_L2)
        for clustering in (codes.cp, codes.pq.cp):
            clustering.niter, clustering.seed, clustering.min_points_per_centroid = _TRAINING_ROUNDS, _SEED, 1
        num_sampled = min(_POINTS_PER_CELL * num_cells, num_vectors)
        sampled = np.random.default_rng(_SEED).choice(num_vectors, num_sampled, replace=False)
        codes.train(item_NW[np.sort(sampled)])
        codes.add(item_NW)
        return cls(faiss.IndexRefineFlat(codes, faiss.swig_ptr(item_NW)), space)

    def queries(self, query_QD: np.ndarray) -> np.ndarray:
        return self.space.queries(query_QD)

    def nearest(self, query_QW: np.ndarray, k: int, selector: Any, broadened: float) -> np.ndarray:
        num_probed = math.ceil(self.codes.nprobe * broadened * max(1.0, k / MEASURED_AT))
        parameters = _ivf_parameters(min(num_probed, self.codes.nlist), selector)
        # The codes' error spoils the order over some number of places; it does not grow with the depth of the search.
        depth = math.ceil(self.index.k_factor * MEASURED_AT) + 2 * max(0, k - MEASURED_AT)
        return _nearest(self.codes, _stretched(query_QW, self._radius), depth, parameters)

    @property
    def parameters(self) -> dict[str, float]:
        return {"cells": self.codes.nlist, "nprobe": self.codes.nprobe, "k_factor": self.index.k_factor}

    def vectors(self) -> np.ndarray:
        return self.space.vectors(view(self.raw))

    def subset(self, position: np.ndarray) -> IvfPq:
        """With the codebooks of the whole and the centroids that get an item, so that nothing is trained: empty cells
        near the query would leave no room for others."""
        item_NW = np.ascontiguousarray(view(self.raw)[position])
        width = item_NW.shape[1]
        nearest = np.unique(self.codes.quantizer.search(item_NW, 1)[1])
        centroids = faiss.IndexFlatL2(width)
        centroids.add(self.codes.quantizer.reconstruct_n(0, self.codes.nlist)[nearest])
        codes = faiss.IndexIVFPQFastScan(centroids, width, len(nearest), width, 4, faiss.METRIC_L2)
        codes.pq, codes.by_residual, codes.is_trained = self.codes.pq, self.codes.by_residual, True
        codes.precompute_table()
        codes.nprobe = min(self.codes.nprobe, len(nearest))
        codes.add(item_NW)
        index = faiss.IndexRefineFlat(codes, faiss.swig_ptr(item_NW))
        index.k_factor = self.index.k_factor
        return IvfPq(index, self.space)


def _ivf_parameters(num_probed: int, selector: Any) -> Any:
    return _without_selector(num_probed) if selector is None else _with_selector(num_probed, selector)


@cache
def _without_selector(num_probed: int) -> Any:
    """Kept: making one takes as long as scanning a cell."""
    return _with_selector(num_probed, None)


def _with_selector(num_probed: int, selector: Any) -> Any:
    parameters = faiss.IVFSearchParameters()
    parameters.nprobe, parameters.sel = num_probed, selector
    return parameters


def exactly_nearest(kind: Kind, query_QW: np.ndarray, k: int, selector: Any) -> np.ndarray:
    """Positions [Q, K] of the k best of the selected by comparing all of them, -1 in empty places."""
    if kind.raw.metric_type == faiss.METRIC_L2:
        query_QW = _stretched(query_QW, _length(kind.raw))
    parameters = faiss.SearchParameters()
    parameters.sel = selector
    return _nearest(kind.raw, query_QW, k, parameters)


def _nearest(index: Any, query_QW: np.ndarray, k: int, parameters: Any) -> np.ndarray:
    return index.search(query_QW, min(k, index.ntotal), params=parameters)[1]


def _stretched(query_QW: np.ndarray, radius: np.floating) -> np.ndarray:
    """As long as the vectors. The order is the same, but a short query would drown in their squared length."""
    length_Q1 = np.sqrt((query_QW * query_QW).sum(1, keepdims=True))
    return query_QW * (radius / np.maximum(length_Q1, _TINY)).astype(np.float32)


def _length(raw: Any) -> np.floating:
    return np.linalg.norm(view(raw)[0])


def view(raw: Any) -> np.ndarray:
    return faiss.rev_swig_ptr(raw.get_xb(), raw.ntotal * raw.d).reshape(raw.ntotal, raw.d)
