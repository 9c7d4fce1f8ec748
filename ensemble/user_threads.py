"""The users of a large call, worked on side by side: what is heavy (search, kernels, ONNX) lets Python's lock go.

A user's answer depends on nobody else in the call, so neither does it on how the users are divided.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise
from threading import local

import faiss

MIN_USERS = 8
"""Users that a thread must have to be worth waking."""
_of_thread = local()


def each_part(num_users: int, work: Callable[[slice], None]) -> None:
    """Call `work` with slices that together are all users, some of them at the same time.

    Raises: the first part's exception, when all have ended.
    """
    num_parts = min(num_threads(), num_users // MIN_USERS)
    if num_parts < 2:
        work(slice(0, num_users))
        return
    edges = [num_users * part // num_parts for part in range(num_parts + 1)]
    parts = [slice(begin, end) for begin, end in pairwise(edges)]
    others = [_pool().submit(work, part) for part in parts[1:]]
    try:
        work(parts[0])
    finally:
        errors = [other.exception() for other in others]
    if failed := next(filter(None, errors), None):
        raise failed


def num_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))


def _pool() -> ThreadPoolExecutor:
    """Of the calling thread alone: where one is left behind in a part that hangs, so are its helpers."""
    if not hasattr(_of_thread, "pool"):
        _of_thread.pool = ThreadPoolExecutor(max(1, num_threads() - 1), "users", initializer=search_on_one_thread)
    return _of_thread.pool


def search_on_one_thread() -> None:
    """Keep FAISS from starting threads of its own; holds for the calling thread. Requests come side by side, and those
    threads would wait for each other for milliseconds."""
    faiss.omp_set_num_threads(1)
