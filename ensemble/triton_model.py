"""Triton's side of the request path: the class that its Python backend loads.

The export copies this file as model.py. Triton hands over the requests of several callers at once; they are joined,
run once and split, and no caller's mistake reaches another.
"""

from __future__ import annotations

import contextlib
import gc
import json
import logging
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pydantic import TypeAdapter

from ensemble.config import ServingConfig
from ensemble.json_log import JsonLog, log_lines_of
from ensemble.last_resort import LastResort
from ensemble.metrics_publisher import MetricsPublisher
from ensemble.parameters import checked_parameters
from ensemble.request import DEFAULT_K, Reply, Request, RequestError, join
from ensemble.request_log import RequestLog, SampledRequest, SampledRun
from ensemble.rollout_state import release_folder
from ensemble.run_metrics import count_error, count_run
from ensemble.serving_metrics import metrics
from ensemble.trace import Trace
from ensemble.triton_config import ARM, CANDIDATE_OUTPUTS, SETTINGS

MAX_REQUEST_ID = 128
"""Longest id of a request, in characters."""

_log = logging.getLogger("ensemble.triton_model")  # not __name__: the export gives this file another


class Recommender(Protocol):
    """What the model runs: the pipeline."""

    @property
    def source_names(self) -> list[str]:
        """The candidate sources, in the order of the trace's column `proposed_row`."""
        ...

    @property
    def last_resort(self) -> LastResort | None:
        """What answers a request that failed; None for an error instead."""
        ...

    @property
    def feature_names(self) -> list[str]:
        """The trace's columns with what the store says of a user."""
        ...

    def recommend(self, request: Request, trace: Trace) -> Reply:
        """Answer a checked request."""
        ...


@dataclass(eq=False)
class Call:
    """One caller's request, from Triton and back."""

    id: str
    """The caller's own, or one drawn here."""
    triton: Any
    """Triton's request."""
    arm: str = ""
    """Of the experiment that sent it; empty for none."""
    request: Request | None = None
    """What was asked; None if it cannot be served as it stands."""
    answer: Reply | Exception | None = None
    """What the caller gets."""


def serving_config(model_config: dict[str, Any]) -> ServingConfig:
    """The [serving] configuration that the server wrote into config.pbtxt; the defaults in an export as it came."""
    told = model_config.get("parameters", {}).get(SETTINGS)
    return TypeAdapter(ServingConfig).validate_json(told["string_value"]) if told else ServingConfig()


def serve_folder(args: dict[str, str]) -> Path | None:
    """The folder that a server staged this model for, where logs go; None in an export as it came.

    Args:
        args: Triton's; model_repository is `<serve folder>/models/<model>`.
    """
    is_staged = SETTINGS in json.loads(args["model_config"]).get("parameters", {})
    return Path(args["model_repository"]).parents[1] if is_staged else None


class TritonPythonModel:
    """One instance of the model: its own process, its own pipeline."""

    def initialize(self, args: dict[str, str]) -> None:
        """Load the pipeline from the model's version directory.

        Args:
            args: Triton's; model_repository (the model's folder), model_version, model_config and names are read.
        """
        import triton_python_backend_utils as pb_utils  # pyright: ignore[reportMissingImports]  (Triton brings it)

        self.pb_utils = pb_utils
        model_config = json.loads(args["model_config"])
        self.max_batch_size: int = model_config["max_batch_size"]
        self.config = serving_config(model_config)
        self.opened = contextlib.ExitStack()
        if folder := serve_folder(args):
            version = args["model_version"]
            self.opened.enter_context(JsonLog(self.config.json_log, folder, model=args["model_name"], version=version))
        try:
            self.pipeline = self.load_pipeline(release_folder(Path(args["model_repository"]), args["model_version"]))
        except Exception:
            _log.exception("version %s cannot be loaded", args["model_version"])
            self.opened.close()
            raise
        self.opened.callback(MetricsPublisher(metrics, pb_utils, args).stop)
        self.request_log = self._open_request_log(args)
        # What is there by now stays: the collector need not walk through it again and again while requests wait.
        gc.collect()
        gc.freeze()
        _log.info("version %s is loaded", args["model_version"])

    def load_pipeline(self, version_dir: Path) -> Recommender:
        """The pipeline whose files lie in version_dir."""
        import dask

        dask.config.set({"dataframe.query-planning": False})  # Merlin needs the legacy dataframe: before its import
        from ensemble.pipeline import Pipeline

        return Pipeline.load(version_dir, self.config)

    def _open_request_log(self, args: dict[str, str]) -> RequestLog | None:
        """None where there is nothing to log to, or it cannot be opened: serving goes on without it."""
        folder = serve_folder(args)
        if folder is None or not self.config.request_log.sample:
            return None
        try:
            from ensemble.request_rows import LoggedRelease

            version_folder = release_folder(Path(args["model_repository"]), args["model_version"])
            names = self.pipeline.source_names, self.pipeline.feature_names
            release = LoggedRelease.read(version_folder, *names)
            return self.opened.enter_context(RequestLog(self.config.request_log, folder, release))
        except Exception:
            _log.exception("requests are not logged")
            return None

    def execute(self, requests: list[Any]) -> list[Any]:
        """Answer each of Triton's requests: a reply, or an error that concerns it alone."""
        calls = [self._parse(request) for request in requests]
        self._answer([call for call in calls if call.request])
        return [self._respond(call) for call in calls]

    def finalize(self) -> None:
        """Write what waits to be written; Triton calls this when it lets the model go."""
        self.opened.close()

    def _parse(self, triton_request: Any) -> Call:
        """Triton has checked names, types, ranks and the batch size; the values are still the caller's."""
        call = Call(triton_request.request_id() or secrets.token_hex(8), triton_request)
        try:
            call.request = self._request(call)
        except Exception as error:  # whatever it is, it concerns no other caller
            if not isinstance(error, RequestError):
                _log.exception("request %s cannot be read", call.id)
            call.answer = error
            count_error(error, "parse", call.answer)
        return call

    def _request(self, call: Call) -> Request:
        if len(call.id) > MAX_REQUEST_ID:
            raise RequestError(
                f"the request id may have at most {MAX_REQUEST_ID} characters, got {len(call.id)}; send a shorter one, "
                "or none"
            )
        tensors = {tensor.name(): tensor.as_numpy() for tensor in call.triton.inputs()}
        if "user_id" not in tensors:  # Triton counts the inputs: another one sent twice takes its place
            raise RequestError(f"user_id must be among the inputs, got {sorted(tensors)}; send [B, 1] ids")
        parameters = json.loads(call.triton.parameters() or "{}")
        call.arm = str(parameters.pop(ARM, ""))
        default_ms = self.config.deadlines.default_ms or None
        return Request.of(
            tensors["user_id"],
            tensors.get("k", DEFAULT_K),
            tensors.get("exclude"),
            tensors.get("timestamp"),
            allow=tensors.get("allow"),
            **({"timeout_ms": default_ms} | checked_parameters(parameters)),
            with_candidates=not set(CANDIDATE_OUTPUTS).isdisjoint(call.triton.requested_output_names()),
            max_batch_size=self.max_batch_size,
        )

    def _answer(self, calls: list[Call]) -> None:
        """Give each of these calls a reply or an error, from one joined run if that succeeds."""
        if not calls:
            return
        requests = [call.request for call in calls if call.request]
        joined, slices = join(requests)
        trace = Trace()
        with log_lines_of([call.id for call in calls]):
            try:
                reply = self._run(calls, joined, slices, trace)
            except Exception as error:  # whatever fails must reach its caller as an error, and only that caller
                self._failed(calls, joined, error, trace)
                return
        for call, request, rows in zip(calls, requests, slices, strict=True):
            call.answer = reply.rows(rows, int(request.k.max()), request.with_candidates)

    def _run(self, calls: list[Call], joined: Request, slices: list[slice], trace: Trace) -> Reply:
        received, begun = time.time(), time.perf_counter()
        reply = self.pipeline.recommend(joined, trace)
        seconds = time.perf_counter() - begun
        count_run(reply, trace, seconds, len(calls), self.pipeline.source_names)
        if self.request_log:
            log = self.request_log
            sampled = [
                SampledRequest(call.id, call.arm, rows)
                for call, rows in zip(calls, slices, strict=True)
                if log.is_sampled(call.id)
            ]
            if sampled:
                log.add(SampledRun(sampled, len(calls), received, seconds, joined, reply, trace))
        return reply

    def _failed(self, calls: list[Call], joined: Request, error: Exception, trace: Trace) -> None:
        """Run each joined request alone; one that was alone gets the error."""
        if len(calls) > 1:
            if not isinstance(error, RequestError):
                _log.error("%d joined requests failed, running each alone", len(calls), exc_info=error)
            for call in calls:
                self._answer([call])
            return
        calls[0].answer = error
        if not isinstance(error, RequestError):
            users = joined.user_id[:5].tolist()
            _log.error("request %s: the pipeline failed for users %s", calls[0].id, users, exc_info=error)
            if self.pipeline.last_resort is not None:
                calls[0].answer = self.pipeline.last_resort.recommend(joined)
        count_error(error, trace.stage, calls[0].answer)

    def _respond(self, call: Call) -> Any:
        """The reply as tensors; a mistake of the caller as INVALID_ARG, a failure of ours as INTERNAL."""
        if isinstance(call.answer, Reply):
            return self._response(call.answer, call.triton.requested_output_names())
        if isinstance(call.answer, RequestError):
            return self._error(str(call.answer), self.pb_utils.TritonError.INVALID_ARG)
        kind = type(call.answer).__name__
        message = f"the pipeline failed: {kind}: {call.answer}; the server's log has the traceback of request {call.id}"
        return self._error(message, self.pb_utils.TritonError.INTERNAL)

    def _response(self, reply: Reply, names: list[str]) -> Any:
        tensors = []
        for name in names:
            values = getattr(reply, name)
            tensors.append(self.pb_utils.Tensor(name, values[:, None] if values.ndim == 1 else values))
        return self.pb_utils.InferenceResponse(output_tensors=tensors)

    def _error(self, message: str, code: int) -> Any:
        return self.pb_utils.InferenceResponse(output_tensors=[], error=self.pb_utils.TritonError(message, code))
