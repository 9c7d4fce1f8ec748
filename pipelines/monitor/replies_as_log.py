"""Replies of a run's exported pipeline in process, as the rows that the request log has of a server's."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa

from ensemble.pipeline import Pipeline
from ensemble.request import Request
from ensemble.request_log import SampledRequest, SampledRun
from ensemble.request_rows import LoggedRelease, batches_of, kept
from ensemble.trace import Trace

USERS_PER_CALL = 64


class LoggedPipeline:
    """Asks a pipeline, and keeps of each reply what the request log would.

    Args:
        version_folder: where it was loaded from.
    """

    def __init__(self, pipeline: Pipeline, version_folder: Path) -> None:
        self.pipeline = pipeline
        self.release = LoggedRelease.read(version_folder, pipeline.source_names, pipeline.feature_names)

    def ask(self, user_ids: Sequence[str], received: Sequence[float], k: int, seed: int) -> pa.Table:
        """The log's rows of one request a user, in their order.

        Args:
            received: Unix seconds at which each came.
            k: items of a slate.
            seed: of whatever is drawn.
        """
        all_kept = []
        for begin in range(0, len(user_ids), USERS_PER_CALL):
            users = list(user_ids[begin : begin + USERS_PER_CALL])
            request, trace = Request.of(users, k=k, seed=seed), Trace()
            started = time.perf_counter()
            reply = self.pipeline.recommend(request, trace)
            sampled = [SampledRequest(f"{begin + row}", "", slice(row, row + 1)) for row in range(len(users))]
            run = SampledRun(
                sampled=sampled,
                num_requests=len(users),
                received=float(received[begin]),
                seconds=time.perf_counter() - started,
                request=request,
                reply=reply,
                trace=trace,
            )
            all_kept.append(kept(run, self.release))
        table = pa.Table.from_batches(list(batches_of(all_kept, self.release)))
        micros = pa.array(np.round(np.asarray(received) * 1e6).astype(np.int64)).cast(pa.timestamp("us", "UTC"))
        return table.set_column(table.schema.get_field_index("received"), "received", micros)
