"""Where the etl stage's tasks run: threads of this process, worker processes, GPUs, or a Dask cluster.

The same Dask tasks run everywhere, so the result does not depend on the place. On a cluster, the workers must see the
run folder and the logs under the same paths.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import dask

from features.errors import CascadeError

THREADS = "threads"
FORMS = "threads, threads:N, local:N, cuda or tcp://HOST:PORT"


class ClusterError(CascadeError, ValueError):
    """The cluster cannot be used."""


@dataclass(frozen=True)
class Cluster:
    """Runs Dask tasks."""

    client: Any = None
    """A distributed.Client, or None for threads of this process."""
    num_threads: int = 1
    """Threads, if there is no client."""
    on_gpu: bool = False
    """Whether partitions are cudf frames."""

    def compute(self, tasks: Sequence[Any]) -> list[Any]:
        """Results of the tasks, in their order. A task whose worker died runs again elsewhere."""
        if self.client is None and self.num_threads == 1:
            return list(dask.compute(*tasks, scheduler="synchronous"))
        if self.client is None:
            return list(dask.compute(*tasks, scheduler="threads", num_workers=self.num_threads))
        return self.client.gather(self.client.compute(list(tasks)))


IN_PROCESS = Cluster()
"""The calling thread."""


@contextmanager
def open_cluster(form: str = THREADS) -> Iterator[Cluster]:
    """A cluster for the duration of a `with` block.

    Args:
        form: "threads" (as many as there are cores) or "threads:N"; "local:N": N worker processes on this machine;
            "cuda": a worker process per GPU; "tcp://HOST:PORT": the scheduler of a running Dask cluster.
    Raises: ClusterError if the form is none of these, or the cluster cannot be reached.
    """
    kind, _, number = form.partition(":")
    if kind == THREADS and (not number or re.fullmatch("[1-9][0-9]*", number)):
        yield Cluster(num_threads=int(number or os.cpu_count() or 1))
    elif kind == "local" and re.fullmatch("[1-9][0-9]*", number):
        with _local(int(number)) as cluster:
            yield cluster
    elif form == "cuda":
        with _cuda() as cluster:
            yield cluster
    elif re.fullmatch(r"(tcp|tls)://.+:[0-9]+", form):
        with _remote(form) as cluster:
            yield cluster
    else:
        raise ClusterError(f"--cluster must be {FORMS}, got {form!r}")


@contextmanager
def _local(num_workers: int) -> Iterator[Cluster]:
    from distributed import Client, LocalCluster

    os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"  # the workers read it when they start
    with (
        LocalCluster(
            n_workers=num_workers, threads_per_worker=1, processes=True, dashboard_address="", host="127.0.0.1"
        ) as workers,
        Client(workers, set_as_default=False) as client,
    ):
        yield Cluster(client=client)


@contextmanager
def _cuda() -> Iterator[Cluster]:
    from distributed import Client

    from features.gpu import local_cuda_cluster

    os.environ["DASK_DATAFRAME__QUERY_PLANNING"] = "False"
    with local_cuda_cluster() as workers, Client(workers, set_as_default=False) as client:
        yield Cluster(client=client, on_gpu=True)


@contextmanager
def _remote(address: str) -> Iterator[Cluster]:
    from distributed import Client

    try:
        client = Client(address, timeout="10s", set_as_default=False)
    except (OSError, TimeoutError) as error:
        raise ClusterError(
            f"--cluster {address}: no Dask scheduler answers there ({error}); start one with `dask scheduler` and "
            "workers with `dask worker`, in an environment with Cascade, or use --cluster threads"
        ) from error
    with client:
        if not client.scheduler_info()["workers"]:
            raise ClusterError(f"--cluster {address}: the scheduler has no workers; start some with `dask worker`")
        here = version("cascade")
        there = client.run(version, "cascade", on_error="return")
        if wrong := {worker: str(found) for worker, found in there.items() if found != here}:
            raise ClusterError(
                f"--cluster {address}: the workers must have Cascade {here} installed, but {wrong}; install it "
                "there, or use --cluster threads"
            )
        yield Cluster(client=client)
