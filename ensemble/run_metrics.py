"""What the metrics learn from a run of the request path, and from a request that ended in an error."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ensemble.request import Reply, RequestError
from ensemble.serving_metrics import metrics
from ensemble.trace import Trace

# B users  S sources  Q proposals of a source  N removed items
NO_ITEM = -1
REMOVED = "removed_"
"""Columns that start so say what a filter removed: item rows [B, N], or numbers [B]."""


def count_run(reply: Reply, trace: Trace, seconds: float, num_requests: int, source_names: Sequence[str]) -> None:
    """Count a run that succeeded.

    Args:
        seconds: of the whole run.
        num_requests: callers' requests that were joined into it.
        source_names: the candidate sources, in the order of the column `proposed_row`.
    """
    metrics.observe("cascade_run_seconds", seconds)
    metrics.observe("cascade_run_users", len(reply))
    metrics.observe("cascade_run_requests", num_requests)
    metrics.count("cascade_requests_total", num_requests, outcome="ok")
    for stage, taken in trace.stage_seconds.items():
        metrics.observe("cascade_stage_seconds", taken, stage=stage)
    _count_users(reply)
    if (proposed_BSQ := trace.columns.get("proposed_row")) is not None:
        for name, number in zip(source_names, (proposed_BSQ != NO_ITEM).sum((0, 2)).tolist(), strict=True):
            metrics.count("cascade_proposed_items_total", number, source=name)
    for name, removed in trace.columns.items():
        if name.startswith(REMOVED):
            metrics.count("cascade_removed_total", int(num_removed(removed).sum()), filter=name.removeprefix(REMOVED))


def count_error(error: Exception, stage: str, answer: Reply | Exception | None) -> None:
    """Count a request whose run ended in an error.

    Args:
        stage: where it was raised.
        answer: what the caller gets all the same, or the error.
    """
    rescued, refused = isinstance(answer, Reply), isinstance(error, RequestError)
    metrics.count("cascade_requests_total", 1, outcome="rescued" if rescued else "refused" if refused else "failed")
    if isinstance(answer, Reply):
        _count_users(answer)
    metrics.count("cascade_errors_total", 1, kind=type(error).__name__, stage=stage)


def num_removed(removed: np.ndarray) -> np.ndarray:
    """[B] items that a filter removed, from its column."""
    return removed if removed.ndim == 1 else (removed != NO_ITEM).sum(1)


def _count_users(reply: Reply) -> None:
    sources = reply.source.tolist()
    for source in set(sources):
        metrics.count("cascade_users_total", sources.count(source), source=source)
