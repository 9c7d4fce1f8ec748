"""`cascade loadtest`: load on a run's server, and what callers feel of it."""

from __future__ import annotations

import asyncio
import json
from argparse import Namespace
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from features.errors import CascadeError
from pipelines.commands import run_folder, saved_config, served

if TYPE_CHECKING:
    from pipelines.load_requests import LoadRequest
    from pipelines.load_test import Call

_CAPACITY_CALLERS = 32
_CAPACITY_SECONDS = 10.0
_NUM_WARM_UP = 32
_WARM_UP_SECONDS = 60.0


class LoadTestError(CascadeError, RuntimeError):
    """The load test cannot be run as asked."""


def loadtest(options: Namespace) -> None:
    """Run it and print the figures.

    Raises: LoadTestError if no server answers or a value cannot be used; it also ends the command with 1 when a call
        failed, after the figures were printed.
    """
    from pipelines.load_report import document, table

    run = run_folder(options)
    config = saved_config(options, run)
    requests = _prepared(options, run, config.export.max_batch_size)
    with nullcontext(options.url) if options.url else served(run, config) as url:
        told = asyncio.run(_measured(options, run, url, requests))
    document_ = document(*told)
    print(json.dumps(document_) if options.json else table(document_))
    if document_["errors"]:
        raise LoadTestError(f"{sum(document_['errors'].values())} of {document_['sent']} calls failed")


async def _measured(
    options: Namespace, run: Path, url: str, requests: list[LoadRequest]
) -> tuple[Any, dict[str, Any], dict[str, float] | None]:
    import grpc
    import numpy as np

    from pipelines.arrivals import bursty_times, poisson_times
    from pipelines.load_test import Generator, grpc_call
    from pipelines.server_memory import ServerMemory

    settings: dict[str, Any] = {"url": url, "users_per_call": options.users_per_call, "k": options.k}
    settings |= {"exclude": options.exclude, "duration_seconds": options.duration, "seed": options.seed}
    async with grpc.aio.insecure_channel(url) as channel:
        call = grpc_call(channel, options.timeout)
        await _warm_up(grpc_call(channel, _WARM_UP_SECONDS), requests, url)
        rate = options.rate
        if options.capacity_share is not None:
            found = await Generator(call, requests).closed_loop(_CAPACITY_CALLERS, _CAPACITY_SECONDS)
            capacity = len(found.latency_seconds) / found.elapsed_seconds
            rate = capacity * options.capacity_share
            settings |= {"capacity": round(capacity, 2), "capacity_share": options.capacity_share}
        with ServerMemory(run / "serve") as memory:
            if rate is None:
                settings |= {"loop": "closed", "callers": options.callers}
                outcome = await Generator(call, requests).closed_loop(options.callers, options.duration)
            else:
                drawn = bursty_times if options.arrivals == "bursty" else poisson_times
                times = drawn(rate, options.duration, np.random.default_rng(options.seed))
                settings |= {"loop": "open", "arrivals": options.arrivals, "rate": round(rate, 3)}
                outcome = await Generator(call, requests).open_loop(times)
    return outcome, settings, memory.summary()


def _prepared(options: Namespace, run: Path, max_batch_size: int) -> list[LoadRequest]:
    from pipelines.load_requests import prepare

    try:
        return prepare(run, options.users_per_call, options.k, options.exclude, max_batch_size, options.seed)
    except ValueError as error:
        raise LoadTestError(str(error)) from error


async def _warm_up(call: Call, requests: list[LoadRequest], url: str) -> None:
    """A server that is not there must not look like one that fails every call, nor a fresh one like a slow one."""
    import grpc

    try:
        for request in requests[:_NUM_WARM_UP]:
            await call(request.payload)
    except grpc.aio.AioRpcError as error:
        raise LoadTestError(
            f"the server at {url} does not answer ({error.code().name}: {error.details()}); start it with "
            "`cascade serve`, or name its gRPC address with --url"
        ) from error
