"""What does the index that auto chooses find, how fast, in how much memory, and does it ever answer with the past?

Against exact search over the same vectors, on one thread, in turns. The data are made, as a trained model's would be:
`clusters`: unit vectors around one centre for each 250 items, of unequal size, queries drawn likewise; `popularity`:
those, and two logs of heavy-tailed counts that queries weigh as the two-tower model does; `sphere`: uniform, without
any structure, the worst case. Built on all cores; the stage builds on one by default, which takes longer.
Prints one JSON line a question. python benchmarks/index_search.py [NUM_ITEMS] [clusters|popularity|sphere] [KIND]
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import faiss
import numpy as np
import psutil

from retrieval.config import IndexConfig
from retrieval.index import ItemIndex, build, builder, load, search
from retrieval.index.files import INDEX, save
from retrieval.index.kinds import Flat
from retrieval.index.part import Part

DIM, K, ITEMS_A_CENTRE, NUM_QUERIES, NUM_TIMED, NUM_RUNS, NUM_CHANGES = 64, 100, 250, 500, 100, 5, 10_000


def main(num_items: int, data: str, kind: str) -> None:
    vector_ID, user_QD = made(num_items, data, 1), made(3 * NUM_QUERIES, data, 2, queries_of=num_items)
    known_QD, query_QD = user_QD[: 2 * NUM_QUERIES], user_QD[2 * NUM_QUERIES :]
    config = IndexConfig(kind=kind, num_threads=os.cpu_count())
    begun = time.perf_counter()
    index = build(vector_ID, config, query_QD=known_QD)
    what = {"data": data, "kind": index.kind.name, "parameters": index.kind.parameters}
    what["build_seconds"] = round(time.perf_counter() - begun)
    size = num_items
    exact = Part(Flat.of(vector_ID), None)
    say("recall@100 against exact", recall(index, exact, query_QD), 1.0, "share", "higher", 0.98, size, 1, what)
    ours, peer = seconds(index, exact, query_QD)
    say("ms a query on one thread against exact", ours * 1e3, peer * 1e3, "ms", "lower", 1 / 20, size, NUM_RUNS, what)
    with tempfile.TemporaryDirectory(prefix="cascade-bench-") as temporary:
        save(index, Path(temporary) / "index")
        held = subprocess.run(
            [sys.executable, __file__, "--resident", temporary], capture_output=True, text=True, check=True
        )
        what["file_bytes"] = (Path(temporary) / "index" / INDEX).stat().st_size
    raw = vector_ID.nbytes / 2**20
    say("MiB held to answer against the raw vectors", float(held.stdout), raw, "MiB", "lower", 1.6, size, 1, what)
    stale, what["seconds_a_change"] = num_stale(index, vector_ID)
    say("stale answers after 10,000 updates and deletes", stale, 0, "answers", "lower", 0, size, 1, what)
    rows, alive = index.snapshot()[0].alive()
    true = Part(Flat.of(alive), rows)
    say("recall@100 after the changes", recall(index, true, query_QD), 1.0, "share", "higher", 0.98, size, 1, what)
    begun = time.perf_counter()
    index.compact(builder(config, known_QD))
    what["compaction_seconds"] = round(time.perf_counter() - begun)
    say("recall@100 after compaction", recall(index, true, query_QD), 1.0, "share", "higher", 0.98, size, 1, what)


def made(number: int, data: str, seed: int, *, queries_of: int = 0) -> np.ndarray:
    """[number, D] float32 items, or queries of so many items."""
    random = np.random.default_rng(seed)
    vectors = random.standard_normal((number, DIM), dtype=np.float32)
    if data != "sphere":
        num_centres = (queries_of or number) // ITEMS_A_CENTRE
        centres = np.random.default_rng(0).standard_normal((num_centres, DIM), dtype=np.float32)
        centres /= np.linalg.norm(centres, axis=1, keepdims=True)
        share = np.arange(1, num_centres + 1) ** -0.6
        vectors = centres[random.choice(num_centres, number, p=share / share.sum())] + 0.7 / DIM**0.5 * vectors
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    if data == "popularity":
        logs = np.log1p(3 * random.pareto(1.0, (number, 2))).astype(np.float32)
        weights = np.tile(np.array([0.7, 0.3], np.float32), (number, 1))
        vectors = np.concatenate([vectors / 0.07, weights] if queries_of else [vectors, logs], axis=1)
    return np.ascontiguousarray(vectors, dtype=np.float32)


def recall(index: ItemIndex, exact: Part, query_QD: np.ndarray) -> float:
    """Of queries that the index has never seen."""
    true_QK = exact.search(query_QD, K, None, None)[0]
    found_QK = search(index, query_QD, K)[0]
    return float(np.mean([np.isin(true, found).mean() for true, found in zip(true_QK, found_QK, strict=True)]))


def seconds(index: ItemIndex, exact: Part, query_QD: np.ndarray) -> tuple[float, float]:
    """Medians over runs of the median of one query at a time, both in turn."""
    faiss.omp_set_num_threads(1)
    runs: dict[str, list[float]] = {"ours": [], "exact": []}
    for _ in range(NUM_RUNS):
        for name, answer in (
            ("ours", lambda query: search(index, query, K)),
            ("exact", lambda query: exact.search(query, K, None, None)),
        ):
            taken = []
            for query in range(NUM_TIMED):
                begun = time.perf_counter()
                answer(query_QD[query : query + 1])
                taken.append(time.perf_counter() - begun)
            runs[name].append(float(np.median(taken)))
    faiss.omp_set_num_threads(os.cpu_count())
    return float(np.median(runs["ours"])), float(np.median(runs["exact"]))


def resident_mib(folder: Path) -> float:
    """What a process grows by when it reads the index, without mapping, and answers."""
    process = psutil.Process()
    load_nothing = np.zeros((1, 1), np.float32)
    search(build(load_nothing, IndexConfig()), load_nothing, 1)
    before = process.memory_info().rss
    index = load(folder, mapped=False)
    search(index, np.ones((8, index.dim), np.float32), K)
    return (process.memory_info().rss - before) / 2**20


def num_stale(index: ItemIndex, vector_ID: np.ndarray) -> tuple[int, float]:
    """Answers with a deleted item, or with an updated one at another score than its new vector's; and seconds a change.

    Every changed item is asked for with its old vector, which it answered best, and every updated one with its new.
    """
    random = np.random.default_rng(3)
    changed = random.choice(len(vector_ID), NUM_CHANGES, replace=False)
    updated, deleted = np.split(changed, 2)
    new_CD = vector_ID[random.permutation(updated)] + 0.01 * random.standard_normal((len(updated), vector_ID.shape[1]))
    new_CD = new_CD.astype(np.float32)
    begun = time.perf_counter()
    for some in np.array_split(np.arange(len(updated)), 100):
        index.put(updated[some].tolist(), new_CD[some])
        index.delete(deleted[some].tolist())
    taken = (time.perf_counter() - begun) / NUM_CHANGES
    now = np.full((len(vector_ID), vector_ID.shape[1]), np.nan, np.float32)  # nan: deleted or not looked at
    now[:] = vector_ID
    now[updated], now[deleted] = new_CD, np.nan
    stale = 0
    for query_QD in np.array_split(np.concatenate([vector_ID[changed], new_CD]), 50):
        row_QK, score_QK = search(index, query_QD, K)
        true_QK = np.einsum("qd,qkd->qk", query_QD, now[row_QK])
        stale += int((~np.isclose(score_QK, true_QK, rtol=1e-3, atol=1e-3)).sum())
    return stale, taken


def say(
    question: str, ours: float, peer: float, unit: str, better: str, goal: float, size: int, runs: int, what: dict
) -> None:
    ratio = ours / peer if peer else ours
    line = {"benchmark": "index_search", "question": question, "ours": round(ours, 4), "peer": round(peer, 4)}
    line |= {"unit": unit, "ratio": round(ratio, 4), "goal": goal, "better": better}
    line |= {"met": ratio >= goal if better == "higher" else ratio <= goal, "size": size, "runs": runs}
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    print(json.dumps(line | {"cores": os.cpu_count(), "commit": commit} | what), flush=True)


if __name__ == "__main__":
    if "--resident" in sys.argv:
        print(resident_mib(Path(sys.argv[2]) / "index"))
    else:
        arguments = sys.argv[1:]
        main(
            int(arguments[0]) if arguments else 1_000_000,
            arguments[1] if len(arguments) > 1 else "clusters",
            arguments[2] if len(arguments) > 2 else "auto",
        )
