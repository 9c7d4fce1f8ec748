"""Calls a Cascade server and speaks in Requests and Replies, over gRPC or HTTP.

Errors: RequestError (what was sent cannot be served), ServerUnavailable (no server, or no answer in time; below it
ModelUnavailable: a server without the model), ServerFailure (the server got the request and failed). Each says the
address and what to do.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, NoReturn, Self

import numpy as np

from ensemble.request import DEFAULT_K, Reply, Request, RequestError, decoded, padded
from ensemble.tls import ClientTls
from ensemble.triton_config import (
    CANDIDATE_OUTPUTS,
    EVENT_INPUTS,
    EVENT_OUTPUT,
    EVENTS_MODEL,
    FALLBACK_MODEL_NAME,
    INPUTS,
    MODEL_NAME,
    SLATE_OUTPUTS,
)
from features.errors import CascadeError

DEFAULT_BATCH_SIZE = 64
"""Users a call in `recommend_all`; ExportConfig.max_batch_size must not be smaller."""

DEFAULT_EVENT_BATCH_SIZE = 256
"""Events a call in `push_events`; EventsConfig.max_batch_size must not be smaller."""

_WIRE_TYPES = {"TYPE_STRING": "BYTES", "TYPE_INT32": "INT32", "TYPE_INT64": "INT64"}
# gRPC's names and HTTP's numbers
_BAD_REQUEST = ("StatusCode.INVALID_ARGUMENT", "400")
_NO_ANSWER_IN_TIME = ("StatusCode.DEADLINE_EXCEEDED", "499", "504")
_NO_MODEL = ("unknown model", "is not ready", "no available versions")
"""Triton's words for a model that is not there, whatever the status."""
_UNAVAILABLE = ("StatusCode.UNAVAILABLE", "StatusCode.NOT_FOUND", "StatusCode.UNIMPLEMENTED", "404", "503")


class ServerUnavailable(CascadeError, ConnectionError):  # noqa: N818  (a state, as in HTTP 503)
    """Nobody answers at the address, or not in time, or the server is not ready."""


class ModelUnavailable(ServerUnavailable):
    """The server answers, and has no such model or it is not ready."""


class ServerFailure(CascadeError, RuntimeError):  # noqa: N818
    """The server got a good request and could not answer it."""


class RecommendClient:
    """A connection to a server; use it in a `with`. One client a thread.

    Args:
        url: host:port, without a scheme.
        protocol: grpc (faster) or http.
        timeout_seconds: longest time in seconds for one call.
        tls: speak TLS; gRPC only.
        with_fallback: ask the server's model `cascade_fallback` where `cascade` fails or is not there; the reply's
            source says `cached` or `degraded`.
    """

    def __init__(
        self,
        url: str,
        protocol: Literal["grpc", "http"] = "grpc",
        timeout_seconds: float = 5.0,
        tls: ClientTls | None = None,
        with_fallback: bool = True,
    ) -> None:
        if protocol not in ("grpc", "http"):
            raise ValueError(f"protocol must be grpc or http, got {protocol!r}")
        if "://" in url:
            raise ValueError(f"url must be host:port without a scheme, got {url!r}; drop {url.split('://')[0]}://")
        if tls and protocol != "grpc":
            raise ValueError("tls needs protocol grpc: Triton's HTTP has none; call the proxy before it")
        self.url = url
        self.protocol = protocol
        self.timeout_seconds = timeout_seconds
        self.with_fallback = with_fallback
        self.num_fallbacks = 0
        """Calls that `cascade_fallback` has answered."""
        if protocol == "grpc":
            import tritonclient.grpc as triton

            self._client: Any = triton.InferenceServerClient(url, **(tls.arguments() if tls else {}))
            self._call_arguments = {"client_timeout": timeout_seconds}
        else:
            import tritonclient.http as triton

            self._client = triton.InferenceServerClient(
                url, connection_timeout=timeout_seconds, network_timeout=timeout_seconds
            )
            self._call_arguments = {}
        self._triton: Any = triton

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._client.close()

    def recommend(
        self,
        user_ids: Sequence[str],
        k: int | Sequence[int] = DEFAULT_K,
        exclude: Sequence[Sequence[str]] | None = None,
        timestamp: int | Sequence[int] | None = None,
        with_candidates: bool = False,
        *,
        allow: Sequence[Sequence[str]] | None = None,
        request_id: str = "",
        **parameters: Any,
    ) -> Reply:
        """Recommend for up to max_batch_size users in one call; the arguments are those of `Request.of`.

        Args:
            request_id: names the request in the server's logs; the server draws one if it is empty.
            parameters: seed, temperature, diversity, timeout_ms.

        Raises: RequestError; ServerUnavailable; ServerFailure.
        """
        request = Request.of(
            user_ids, k, exclude, timestamp, allow=allow, with_candidates=with_candidates, **parameters
        )
        try:
            return self._asked(MODEL_NAME, request, request_id, parameters)
        except (ServerFailure, ModelUnavailable) as error:
            if not self.with_fallback:
                raise
            try:
                reply = self._asked(FALLBACK_MODEL_NAME, request, request_id, parameters)
            except (ServerFailure, ServerUnavailable):  # what happened first says more
                raise error from error.__cause__
            self.num_fallbacks += 1
            return reply

    def recommend_all(
        self,
        user_ids: Sequence[str],
        batch_size: int = DEFAULT_BATCH_SIZE,
        k: int | Sequence[int] = DEFAULT_K,
        exclude: Sequence[Sequence[str]] | None = None,
        timestamp: int | Sequence[int] | None = None,
        with_candidates: bool = False,
        *,
        allow: Sequence[Sequence[str]] | None = None,
        **parameters: Any,
    ) -> Iterator[Reply]:
        """Recommend for any number of users: one Reply for each batch_size of them, in their order.

        Raises: ValueError if batch_size is not positive; RequestError (its rows count within the batch);
            ServerUnavailable; ServerFailure.
        """
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}")
        _check_lengths(len(user_ids), k=k, exclude=exclude, timestamp=timestamp, allow=allow)
        for start in range(0, len(user_ids), batch_size):
            rows = slice(start, start + batch_size)
            yield self.recommend(
                user_ids[rows],
                _rows_of(k, rows),
                _rows_of(exclude, rows),
                _rows_of(timestamp, rows),
                with_candidates,
                allow=_rows_of(allow, rows),
                **parameters,
            )

    def _asked(self, model: str, request: Request, request_id: str, parameters: dict[str, Any]) -> Reply:
        """One model's reply. Raises: as `recommend`."""
        names = [*SLATE_OUTPUTS, *(CANDIDATE_OUTPUTS if request.with_candidates else ())]
        try:
            result = self._client.infer(
                model,
                [self._input(name, values) for name, values in _tensors(request).items()],
                outputs=[self._triton.InferRequestedOutput(name) for name in names],
                request_id=request_id,
                parameters={name: str(value) for name, value in parameters.items()} or None,
                **self._call_arguments,
            )
        except Exception as error:  # the protocols' own errors have no common type
            self._raise(error)
        return _reply({name: result.as_numpy(name) for name in names})

    def push_events(
        self,
        event_ids: Sequence[str],
        user_ids: Sequence[str],
        item_ids: Sequence[str],
        timestamps: Sequence[int],
        attributes: Sequence[Mapping[str, Any] | None] | None = None,
        *,
        batch_size: int = DEFAULT_EVENT_BATCH_SIZE,
    ) -> np.ndarray:
        """Tell the server of new interactions, any number of them, which the users' next slates reflect.

        What is accepted is on the server's disk. After an error nobody knows which events were: send all of them
        again, those that were come back as duplicates.

        Args:
            event_ids: names of the events, each given once and for all: a second event with an id is a duplicate.
            timestamps: Unix seconds at which each happened.
            attributes: of each event the interaction's categories and its price, as far as the log has them.
            batch_size: events a call, at most serving.events.max_batch_size.
        Returns: [B] texts: accepted, duplicate, unknown_item, or "rejected: " and the reason.
        Raises: RequestError; ServerUnavailable; ServerFailure.
        """
        columns = _event_columns(event_ids, user_ids, item_ids, timestamps, attributes)
        statuses = [np.empty(0, dtype=object)]
        for begin in range(0, len(columns["event_id"]), batch_size):
            inputs = []
            for name, values in columns.items():
                own = values[begin : begin + batch_size, None]
                inputs.append(self._triton.InferInput(name, list(own.shape), _WIRE_TYPES[EVENT_INPUTS[name]]))
                inputs[-1].set_data_from_numpy(own)
            try:
                outputs = [self._triton.InferRequestedOutput(EVENT_OUTPUT)]
                result = self._client.infer(EVENTS_MODEL, inputs, outputs=outputs, **self._call_arguments)
            except Exception as error:  # the protocols' own errors have no common type
                self._raise(error)
            statuses.append(decoded(result.as_numpy(EVENT_OUTPUT))[:, 0])
        return np.concatenate(statuses)

    def _input(self, name: str, values: np.ndarray) -> Any:
        tensor = self._triton.InferInput(name, list(values.shape), _WIRE_TYPES[INPUTS[name]])
        tensor.set_data_from_numpy(values)
        return tensor

    def _raise(self, error: Exception) -> NoReturn:
        """Turn what either protocol raises into this module's errors."""
        where = f"{self.protocol} {self.url}"
        message, status = _message_and_status(error)
        if status in _BAD_REQUEST and not any(words in message for words in _NO_MODEL):
            advice = "; recommend_all splits longer lists" if "batch-size must be" in message else ""
            raise RequestError(f"{where} refused the request: {message}{advice}") from error
        if status in _NO_ANSWER_IN_TIME or isinstance(error, TimeoutError):
            raise ServerUnavailable(
                f"{where} gave no answer within {self.timeout_seconds:g} s; raise timeout_seconds, or look at the "
                "server's load and log"
            ) from error
        if any(words in message for words in _NO_MODEL):
            raise ModelUnavailable(
                f"{where} has no model that is ready ({message}); wait until it is loaded, or read the server's log"
            ) from error
        if status in _UNAVAILABLE or isinstance(error, OSError):
            raise ServerUnavailable(
                f"{where} cannot be reached or is not ready ({message}); start the server with `cascade serve`, or "
                "check the address, the port and the protocol"
            ) from error
        raise ServerFailure(f"{where} could not answer: {message}; read the server's log") from error


def _message_and_status(error: Exception) -> tuple[str, str]:
    from tritonclient.utils import InferenceServerException

    if isinstance(error, InferenceServerException):
        return str(error.message()), str(error.status())
    return f"{type(error).__name__}: {error}", ""


def _tensors(request: Request) -> dict[str, np.ndarray]:
    """The request as Triton's inputs: always the same ones, for Triton joins only requests with the same inputs."""
    tensors = {
        "user_id": request.user_id[:, None],
        "k": request.k.astype(np.int32)[:, None],
        "exclude": padded(request.exclude),
        "timestamp": request.timestamp[:, None],
    }
    if any(ids is not None for ids in request.allow):
        tensors["allow"] = padded(request.allow)
    return tensors


def _event_columns(event_ids, user_ids, item_ids, timestamps, attributes) -> dict[str, np.ndarray]:
    """[B] each, as they go over the wire; the server checks the values, one by one."""
    given = {"event_id": event_ids, "user_id": user_ids, "item_id": item_ids, "attributes": attributes}
    if attributes is None:
        del given["attributes"]
    _check_lengths(len(event_ids), timestamp=timestamps, **given)
    columns = {}
    for name, values in given.items():
        columns[name] = np.empty(len(event_ids), dtype=object)
        columns[name][:] = [json.dumps(value or {}) for value in values] if name == "attributes" else list(values)
    for row, moment in enumerate(timestamps):
        if isinstance(moment, bool) or not isinstance(moment, (int, np.integer)) or not -(2**63) <= moment < 2**63:
            raise RequestError(f"timestamp row {row} must be whole Unix seconds, got {moment!r:.80}")
    columns["timestamp"] = np.array(timestamps, dtype=np.int64)
    return columns


def _reply(outputs: dict[str, np.ndarray]) -> Reply:
    nothing = np.empty((len(outputs["source"]), 0), dtype=object)
    return Reply(
        item_ids=decoded(outputs["item_ids"]),
        scores=outputs["scores"],
        propensities=outputs["propensities"],
        source=decoded(outputs["source"])[:, 0],
        candidate_ids=decoded(outputs.get("candidate_ids", nothing)),
        ranked_ids=decoded(outputs.get("ranked_ids", nothing)),
    )


def _is_one_for_all(values: Any) -> bool:
    return values is None or not isinstance(values, (Sequence, np.ndarray))


def _rows_of(values: Any, rows: slice) -> Any:
    return values if _is_one_for_all(values) else values[rows]


def _check_lengths(num_users: int, **per_user: Any) -> None:
    for name, values in per_user.items():
        if not _is_one_for_all(values) and len(values) != num_users:
            raise RequestError(f"{name} must have one entry for each of {num_users} users, got {len(values)}")
