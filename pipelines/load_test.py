"""Load on a server, and what callers feel of it.

Open loop: calls are sent at times drawn beforehand, whether or not earlier ones were answered, and a call's latency
counts from the moment it was *meant* to be sent. A server that stands still for a second is thereby charged for
everybody who came in that second; a caller that waits politely for its turn would report one slow call (coordinated
omission). Closed loop: N callers, each sending when its last call was answered; what they get through is the capacity.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from pipelines.load_requests import FULL_CHECK_EVERY, METHOD, LoadRequest, WrongReplyError, sources_of

Call = Callable[[bytes], Awaitable[bytes]]
"""Sends a serialised request and returns the serialised reply; raises what goes wrong."""

_MAX_PROBLEM_CHARACTERS = 120


@dataclass
class Outcome:
    """What became of the calls of one test."""

    num_sent: int = 0
    latency_seconds: list[float] = field(default_factory=list)
    """Of answered calls, from the intended moment to the reply."""
    service_seconds: list[float] = field(default_factory=list)
    """Of answered calls, from the moment they were sent."""
    lag_seconds: list[float] = field(default_factory=list)
    """How late the generator was with each call: if this is not small, the generator is saturated, not the server."""
    errors: Counter[str] = field(default_factory=Counter)
    """Calls without a right reply, by kind."""
    sources: Counter[str] = field(default_factory=Counter)
    """Users answered, by what they were served from."""
    num_checked: int = 0
    """Replies that were checked item by item."""
    elapsed_seconds: float = 0.0
    """From the first intended moment to the last reply."""
    generator_seconds: float = 0.0
    """Processor time of the generator."""


class Generator:
    """Sends prepared requests in turn and notes the outcome.

    Args:
        call: sends one.
        requests: they are used again from the first when they run out.
    """

    def __init__(self, call: Call, requests: Sequence[LoadRequest]) -> None:
        self._call = call
        self._requests = requests
        self.outcome = Outcome()

    async def open_loop(self, times: np.ndarray) -> Outcome:
        """Send at the given seconds from now, come what may, and wait for all replies."""
        begun, used = time.perf_counter(), time.process_time()
        in_flight: set[asyncio.Task[None]] = set()
        for moment in (begun + times).tolist():
            # Even when late it lets the replies be read, or a generator that is behind would never see one.
            await asyncio.sleep(max(moment - time.perf_counter(), 0))
            task = asyncio.create_task(self._send(moment))
            in_flight.add(task)
            task.add_done_callback(in_flight.discard)
        await asyncio.gather(*in_flight)
        return self._done(begun, used)

    async def closed_loop(self, num_callers: int, seconds: float) -> Outcome:
        """Let so many callers send one call after the other for so long."""
        begun, used = time.perf_counter(), time.process_time()

        async def caller() -> None:
            while (now := time.perf_counter()) < begun + seconds:
                await self._send(now)

        await asyncio.gather(*(caller() for _ in range(num_callers)))
        return self._done(begun, used)

    async def _send(self, intended: float) -> None:
        outcome = self.outcome
        number = outcome.num_sent
        outcome.num_sent += 1
        request = self._requests[number % len(self._requests)]
        fully = number % FULL_CHECK_EVERY == 0
        sent = time.perf_counter()
        outcome.lag_seconds.append(sent - intended)
        try:
            reply = await self._call(request.payload)
            answered = time.perf_counter()
            sources = sources_of(reply, request, fully)
        except Exception as error:  # every kind of failure is an outcome here
            outcome.errors[_kind(error)] += 1
            return
        outcome.latency_seconds.append(answered - intended)
        outcome.service_seconds.append(answered - sent)
        outcome.num_checked += fully
        for source in sources:
            outcome.sources[source.decode()] += 1

    def _done(self, begun: float, used: float) -> Outcome:
        self.outcome.elapsed_seconds = time.perf_counter() - begun
        self.outcome.generator_seconds = time.process_time() - used
        return self.outcome


def grpc_call(channel, timeout_seconds: float) -> Call:
    """A call over a `grpc.aio` channel that leaves request and reply as bytes."""
    method = channel.unary_unary(METHOD)  # without serialisers gRPC passes bytes through

    async def call(payload: bytes) -> bytes:
        return await method(payload, timeout=timeout_seconds)

    return call


def _kind(error: Exception) -> str:
    """Name of an error under which it is counted."""
    import grpc

    if isinstance(error, grpc.aio.AioRpcError):
        return error.code().name
    if isinstance(error, WrongReplyError):
        return f"wrong reply: {error}"[:_MAX_PROBLEM_CHARACTERS]
    return f"{type(error).__name__}: {error}"[:_MAX_PROBLEM_CHARACTERS]
