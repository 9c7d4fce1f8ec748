"""Slates of many users as one Parquet file, in process: the exported graph that the server runs, without the server.

Memory does not grow with the number of users: a batch is asked, turned into Arrow rows and forgotten; rows wait until
they fill a row group.

Legend: B users  k items of a slate
"""

from __future__ import annotations

import json
import multiprocessing
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from tqdm import tqdm

from ensemble.config import ServingConfig
from ensemble.pipeline import Pipeline
from ensemble.request import Reply, Request, RequestError
from features.errors import CascadeError
from pipelines import answering_process
from pipelines.replaced_file import replaced
from pipelines.user_list import UserList

T = TypeVar("T")
USERS_PER_CALL = 128
"""Measured: fewer cost a call's overhead more often, many more fall out of the processor's caches."""
ROWS_PER_GROUP = 131_072
SCHEMA = pa.schema(
    [
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("rank", pa.int32(), nullable=False),
        pa.field("item_id", pa.string(), nullable=False),
        pa.field("score", pa.float32(), nullable=False),
        pa.field("source", pa.string(), nullable=False),
    ]
)
"""A row a recommended item, a user's items together and best first; rank 1 is the best."""

_IN_FLIGHT_PER_PROCESS = 2
_WITHOUT_A_PART = frozenset({"unranked", "cached", "degraded"})


class BatchError(CascadeError):
    """The slates cannot be written; there is no file, or the older one stands as it was."""


@dataclass(frozen=True)
class Ask:
    """What every user is asked with; the fields are those of `Request.of`."""

    k: int
    exclude: Sequence[str] = ()
    timestamp: int | None = None
    temperature: float | None = None
    seed: int | None = None

    def request(self, users: Sequence[str]) -> Request:
        exclude = [self.exclude] * len(users)
        return Request.of(users, self.k, exclude, self.timestamp, temperature=self.temperature, seed=self.seed)


@dataclass
class Written:
    """What a file of slates holds."""

    num_users: int = 0
    num_rows: int = 0
    num_short: int = 0
    """Users who got fewer than k items: the catalogue has no more that they are allowed."""
    sources: Counter[str] = field(default_factory=Counter)
    """Users by where their slate came from."""

    def add(self, reply: Reply, num_items_B: np.ndarray, k: int) -> None:
        self.num_users += len(reply)
        self.num_rows += int(num_items_B.sum())
        self.num_short += int((num_items_B < k).sum())
        self.sources.update(reply.source.tolist())

    def summary(self, k: int, seconds: float) -> str:
        """How many, how fast, where from, and how many were served short."""
        sources = ", ".join(f"{source} {count:,}" for source, count in sorted(self.sources.items()))
        short = f"; {self.num_short:,} users may be shown fewer than {k} items" if self.num_short else ""
        speed = f"{self.num_users / seconds:,.0f} users/s"
        return f"{self.num_users:,} users, {self.num_rows:,} rows in {seconds:.0f} s ({speed}); {sources}{short}"


def write_slates(
    version_folder: Path,
    users: UserList,
    ask: Ask,
    out: Path,
    about: dict[str, str],
    num_processes: int = 1,
    config: ServingConfig | None = None,
) -> Written:
    """Ask for every user and write SCHEMA to `out`, which appears when the last user is in it.

    Args:
        version_folder: the exported model, `<repository>/cascade/1`.
        about: what the file's metadata says under the key "cascade", as JSON.
        num_processes: processes that answer, each with a whole pipeline in memory; the file is the same.
        config: what the pipeline is told when it opens; the defaults if None.
    Raises: RequestError if k, the timestamp or an id cannot be served; TargetError; BatchError if the online store
        cannot be read or the ranker fails.
    """
    ask.request(["checks what is the same for all"])
    described = SCHEMA.with_metadata({"cascade": json.dumps(about | {"k": ask.k})})
    written = Written()
    with (
        replaced(out) as building,
        pq.ParquetWriter(building, described, compression="zstd") as writer,
        tqdm(desc="recommend", total=len(users), unit=" users", disable=None, leave=False) as progress,
    ):
        waiting: list[pa.RecordBatch] = []
        for batch, reply in answers(version_folder, requests(users, ask), num_processes, recommended, config):
            check_whole(reply.source, version_folder, written.num_users)
            rows, num_items_B = slate_rows(batch, reply)
            written.add(reply, num_items_B, ask.k)
            waiting.append(rows)
            if sum(map(len, waiting)) >= ROWS_PER_GROUP:
                writer.write_table(pa.Table.from_batches(waiting).cast(described))
                waiting.clear()
            progress.update(len(batch))
        if waiting:
            writer.write_table(pa.Table.from_batches(waiting).cast(described))
    return written


def slate_rows(user_ids: Sequence[str] | np.ndarray, reply: Reply) -> tuple[pa.RecordBatch, np.ndarray]:
    """A reply in the form of SCHEMA, and each user's number of items [B]."""
    filled_Bk = reply.item_ids != ""
    num_items_B = filled_Bk.sum(1)
    rank_Bk = np.broadcast_to(np.arange(1, filled_Bk.shape[1] + 1, dtype=np.int32), filled_Bk.shape)
    columns = [
        pa.array(np.repeat(np.asarray(user_ids, dtype=object), num_items_B), pa.string()),
        pa.array(rank_Bk[filled_Bk]),
        pa.array(reply.item_ids[filled_Bk], pa.string()),
        pa.array(reply.scores[filled_Bk]),
        pa.array(np.repeat(reply.source, num_items_B), pa.string()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=SCHEMA), num_items_B


def recommended(pipeline: Pipeline, request: Request) -> Reply:
    """The reply, for `answers`."""
    return pipeline.recommend(request)


def check_whole(source_B: np.ndarray, version_folder: Path, num_users: int) -> None:
    """Raises: BatchError if a part was down.

    Args:
        num_users: users answered before.
    """
    if not _WITHOUT_A_PART.isdisjoint(source_B):
        raise BatchError(
            f"the online store of {version_folder} could not be read, or another part failed, after {num_users} users "
            "(see above); nothing was written: what would stand there is what is left when a part is down"
        )


def requests(users: UserList, ask: Ask) -> Iterator[tuple[list[str], Request]]:
    """Batches of users and what is asked for them. Raises: RequestError naming the file."""
    begin = 0
    for batch in users.batches(USERS_PER_CALL):
        try:
            yield batch, ask.request(batch)
        except RequestError as error:
            raise RequestError(f"{users.path}, rows counted from user {begin}: {error}") from error
        begin += len(batch)


def answers(
    version_folder: Path,
    asked: Iterable[tuple[list[str], Request]],
    num_processes: int,
    of: Callable[[Pipeline, Request], T],
    config: ServingConfig | None = None,
) -> Iterator[tuple[list[str], T]]:
    """Users and what `of` makes of them, in the order of the requests.

    Args:
        of: a function of a module, which other processes can import.
        config: what the pipeline is told when it opens; the defaults if None.
    """
    if num_processes == 1:
        pipeline = Pipeline.load(version_folder, config)
        for batch, request in asked:
            yield batch, of(pipeline, request)
        return
    spawned = multiprocessing.get_context("spawn")  # a fork would take the threads' locks with it
    with ProcessPoolExecutor(num_processes, spawned, answering_process.load, (version_folder, config)) as pool:
        try:
            in_flight: deque[tuple[list[str], Future[T]]] = deque()
            for batch, request in asked:
                in_flight.append((batch, pool.submit(answering_process.answer, of, request)))
                if len(in_flight) >= num_processes * _IN_FLIGHT_PER_PROCESS:
                    yield _finished(in_flight)
            while in_flight:
                yield _finished(in_flight)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _finished(in_flight: deque[tuple[list[str], Future[T]]]) -> tuple[list[str], T]:
    batch, answer = in_flight.popleft()
    return batch, answer.result()
