"""Which kind of index a catalogue gets, and how broadly it searches: measured against exact search, not assumed."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import faiss
import numpy as np

from retrieval.config import IndexConfig
from retrieval.index.kinds import MEASURED_AT, Flat, Hnsw, IvfPq, Kind
from retrieval.index.part import Part
from retrieval.index.space import SphereSpace

# Q queries  D embedding  N vectors  K candidates
LEAST_ITEMS = 1_000
"""Below, centroids have too few vectors to be learnt from, and comparing all takes microseconds."""
_EF_SEARCH = (100, 150, 200, 300, 400, 600, 800, 1_200, 1_600, 2_000)
_K_FACTOR = (2, 3, 4, 6, 8, 12, 16)
_NPROBE = (4, 8, 16, 32, 64, 128, 256, 512, 1_024)
_LEAST_CELLS_LEFT = 4
"""Cells are searched up to this part of them; beyond, the scan is no longer much cheaper than comparing all."""
_SCATTERED = 4
"""What a byte costs that does not follow the one before."""
_MARGIN = 2.0
"""Standard errors: the first of many settings that passes has been lucky, and should reach the target on others too."""
_NUM_TIMED = 50


@dataclass(frozen=True)
class Tried:
    """What one breadth of search was found to do."""

    kind: str
    parameters: dict[str, float]
    recall_at_100_against_exact: float
    """Over the queries that set the breadth."""
    least_recall: float
    """That less two standard errors: what is held against the target."""
    speedup_over_exact: float


@dataclass(frozen=True)
class Measured:
    """What an index was found to do."""

    kind: str
    parameters: dict[str, float]
    recall_at_100_against_exact: float
    """Over the queries that did not set the breadth."""
    num_queries: int
    speedup_over_exact: float
    """Time of one exact query over time of one of these, one after the other on one thread."""
    reached: bool
    """Whether the target was reached without falling back to exact search."""
    tried: tuple[Tried, ...] = ()
    """Every setting that was measured, in order; the last is the one chosen if the target was reached."""


def choose(vector_ND: np.ndarray, config: IndexConfig, query_QD: np.ndarray | None, seed: int) -> tuple[Kind, Measured]:
    """The first kind whose search reaches the target, at the least breadth that does; exact search if none does.

    Half of the queries set the breadth, at which their mean recall less two standard errors reaches the target; the
    other half say the recall that is reported. The kinds are tried in the order of what they cost: cells, then a graph.

    Args:
        query_QD: queries as users ask them; None for a sample of the items, and no fitting of the space to queries.
    """
    if config.kind == "flat" or len(vector_ND) < LEAST_ITEMS:
        return Flat.of(vector_ND), _exact_by_definition(reached=True)
    if config.kind == "auto" and len(vector_ND) <= config.exact_up_to:
        return Flat.of(vector_ND), _exact_by_definition(reached=True)
    random = np.random.default_rng(seed)
    asked_QD = vector_ND if query_QD is None else query_QD
    rows = random.choice(len(asked_QD), min(config.num_queries, len(asked_QD)), replace=False)
    sample_QD = np.ascontiguousarray(asked_QD[rows], dtype=np.float32)
    space = SphereSpace.fitted(vector_ND.shape[1], None if query_QD is None else sample_QD)
    exact = Flat.of(vector_ND)
    true_QK = Part(exact, None).search(sample_QD, MEASURED_AT, None, None)[0]
    kinds = ("ivf_pq", "hnsw") if config.kind == "auto" else (config.kind,)
    half, exact_seconds, tried = (len(sample_QD) + 1) // 2, _seconds(exact, sample_QD), []
    for name in kinds:
        with threads(config.num_threads):
            kind = (IvfPq if name == "ivf_pq" else Hnsw).of(vector_ND, config, space)
        for _ in _settings(kind):
            recall_Q = recall(kind, sample_QD[:half], true_QK[:half])
            least = float(recall_Q.mean() - _MARGIN * recall_Q.std() / np.sqrt(len(recall_Q)))
            speedup = exact_seconds / _seconds(kind, sample_QD)
            tried.append(Tried(name, dict(kind.parameters), float(recall_Q.mean()), least, speedup))
            if least >= config.recall_target:
                held_out = recall(kind, sample_QD[half:], true_QK[half:])
                found = float(held_out.mean())
                return kind, Measured(name, kind.parameters, found, len(held_out), speedup, True, tuple(tried))
    return exact, _exact_by_definition(reached=False, tried=tuple(tried))


def recall(kind: Kind, query_QD: np.ndarray, true_QK: np.ndarray) -> np.ndarray:
    """[Q] share of each query's true K that a search for K finds."""
    row_QK, score_QK = Part(kind, None).search(query_QD, true_QK.shape[1], None, None)
    best_QK = np.argsort(-score_QK, axis=1, kind="stable")[:, : true_QK.shape[1]]
    found_QK = np.take_along_axis(row_QK, best_QK, 1)
    return np.array([np.isin(true, found).mean() for true, found in zip(true_QK, found_QK, strict=True)])


def _settings(kind: Kind) -> Iterator[None]:
    """Set the kind's breadth, from the cheapest on."""
    if isinstance(kind, Hnsw):
        for ef_search in _EF_SEARCH:
            kind.index.hnsw.efSearch = ef_search
            yield
    elif isinstance(kind, IvfPq):
        num_cells, num_vectors, width = kind.codes.nlist, kind.raw.ntotal, kind.raw.d
        nprobes = [nprobe for nprobe in _NPROBE if nprobe <= max(1, num_cells // _LEAST_CELLS_LEFT)]

        def num_bytes_read(setting: tuple[int, int]) -> float:
            nprobe, k_factor = setting  # half a byte a coordinate in a row; four bytes each where they lie scattered
            return nprobe / num_cells * num_vectors * width / 2 + _SCATTERED * k_factor * MEASURED_AT * width * 4

        for nprobe, k_factor in sorted(itertools.product(nprobes, _K_FACTOR), key=num_bytes_read):
            kind.codes.nprobe, kind.index.k_factor = nprobe, k_factor
            yield


def _seconds(kind: Kind, query_QD: np.ndarray) -> float:
    """Median over single queries, on one thread."""
    part, taken = Part(kind, None), []
    with threads(1):
        for query in range(min(_NUM_TIMED, len(query_QD))):
            begun = time.perf_counter()
            part.search(query_QD[query : query + 1], MEASURED_AT, None, None)
            taken.append(time.perf_counter() - begun)
    return float(np.median(taken))


@contextmanager
def threads(number: int) -> Iterator[None]:
    """FAISS uses so many meanwhile. The number is the whole process's."""
    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(number)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _exact_by_definition(*, reached: bool, tried: tuple[Tried, ...] = ()) -> Measured:
    return Measured("flat", {}, 1.0, 0, 1.0, reached, tried)
