"""Triton's side of the request path: the class that its Python backend loads.

The export copies this file as model.py. Triton hands over the requests of several callers at once; they are joined,
run once and split, and no caller's mistake reaches another.
"""

from __future__ import annotations

import contextlib
import json
import traceback
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from ensemble.config import ServingConfig
from ensemble.request import DEFAULT_K, Reply, Request, RequestError, join
from ensemble.triton_config import CANDIDATE_OUTPUTS, PARAMETERS, SETTINGS


class Recommender(Protocol):
    """What the model runs: the pipeline."""

    def recommend(self, request: Request) -> Reply:
        """Answer a checked request."""
        ...


def serving_config(model_config: dict[str, Any]) -> ServingConfig:
    """The [serving] configuration that the server wrote into config.pbtxt; the defaults in an export as it came."""
    told = model_config.get("parameters", {}).get(SETTINGS)
    return TypeAdapter(ServingConfig).validate_json(told["string_value"]) if told else ServingConfig()


def _parameters(text: str) -> dict[str, Any]:
    """Those of a Triton request, as `Request.of` takes them. Clients may send numbers as text.

    Raises: RequestError if there is one that nobody reads.
    """
    given = json.loads(text or "{}")
    if unknown := sorted(set(given) - set(PARAMETERS)):
        raise RequestError(f"request parameter {unknown[0]!r} is not known; there are {', '.join(PARAMETERS)}")
    return {name: _as_number(value) for name, value in given.items()}


def _as_number(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value


class TritonPythonModel:
    """One instance of the model: its own process, its own pipeline."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the pipeline from the model's version directory.

        Args:
            args: Triton's; model_repository (the model's folder), model_version and model_config are read.
        """
        import dask
        import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  (Triton brings it)

        dask.config.set({"dataframe.query-planning": False})  # Merlin needs the legacy dataframe: before its import
        self.pb_utils = pb_utils
        model_config = json.loads(args["model_config"])
        self.max_batch_size: int = model_config["max_batch_size"]
        self.config = serving_config(model_config)
        self.pipeline = self.load_pipeline(Path(args["model_repository"]) / args["model_version"])

    def load_pipeline(self, version_dir: Path) -> Recommender:
        """The pipeline whose artifacts lie in version_dir."""
        from ensemble.pipeline import Pipeline

        return Pipeline.load(version_dir, self.config)

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each of Triton's requests: a reply, or an error that concerns it alone."""
        responses: list[Any] = [None] * len(requests)
        good: dict[int, Request] = {}
        for number, triton_request in enumerate(requests):
            try:
                good[number] = self._parse(triton_request)
            except RequestError as error:
                responses[number] = self._bad_request(error)
        for number, answer in zip(good, self._answers(list(good.values())), strict=True):
            if isinstance(answer, Reply):
                responses[number] = self._response(answer, requests[number].requested_output_names())
            elif isinstance(answer, RequestError):
                responses[number] = self._bad_request(answer)
            else:
                responses[number] = self._failure(answer)
        return responses

    def _answers(self, requests: list[Request]) -> list[Reply | Exception]:
        """A reply or an error for each request, from one joined run if that succeeds."""
        if not requests:
            return []
        joined, slices = join(requests)
        try:
            reply = self.pipeline.recommend(joined)
            return [
                reply.rows(rows, int(request.k.max()), request.with_candidates)
                for request, rows in zip(requests, slices, strict=True)
            ]
        except Exception as error:  # whatever fails must reach its caller as an error, and only that caller
            if len(requests) == 1:
                self._log(error, f"the pipeline failed for users {joined.user_id[:5].tolist()}")
                return [error]
            self._log(error, f"{len(requests)} joined requests failed, running each alone")
            return [answer for request in requests for answer in self._answers([request])]

    def _parse(self, triton_request: Any) -> Request:
        """Triton has checked names, types, ranks and the batch size; the values are still the caller's."""
        tensors = {tensor.name(): tensor.as_numpy() for tensor in triton_request.inputs()}
        return Request.of(
            tensors["user_id"],
            tensors.get("k", DEFAULT_K),
            tensors.get("exclude"),
            tensors.get("timestamp"),
            allow=tensors.get("allow"),
            **_parameters(triton_request.parameters()),
            with_candidates=not set(CANDIDATE_OUTPUTS).isdisjoint(triton_request.requested_output_names()),
            max_batch_size=self.max_batch_size,
        )

    def _response(self, reply: Reply, names: list[str]) -> Any:
        tensors = []
        for name in names:
            values = getattr(reply, name)
            tensors.append(self.pb_utils.Tensor(name, values[:, None] if values.ndim == 1 else values))
        return self.pb_utils.InferenceResponse(output_tensors=tensors)

    def _bad_request(self, error: RequestError) -> Any:
        return self._error(str(error), self.pb_utils.TritonError.INVALID_ARG)

    def _failure(self, error: Exception) -> Any:
        message = f"the pipeline failed: {type(error).__name__}: {error}; the server's log has the traceback"
        return self._error(message, self.pb_utils.TritonError.INTERNAL)

    def _error(self, message: str, code: int) -> Any:
        error = self.pb_utils.TritonError(message, code)
        return self.pb_utils.InferenceResponse(output_tensors=[], error=error)

    def _log(self, error: Exception, what: str) -> None:
        if not isinstance(error, RequestError):
            self.pb_utils.Logger.log_error(f"{what}:\n{''.join(traceback.format_exception(error))}")
